"""A plain baseline: something cheap that answers the same rows, so that a tuned model's score has a neighbour."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from luthier.core.component import Component
from luthier.eval.rows import Reply, Task, TaskKind, TaskType

if TYPE_CHECKING:
    from luthier.text.messages import Example


class Baseline(Component):
    """Something that learns from the training rows in seconds, or not at all, and answers the held-out ones."""

    role: ClassVar[str] = "baseline"
    home: ClassVar[str] = "luthier.eval.baselines"
    tasks: ClassVar[frozenset[TaskKind]]
    """The tasks that it can do."""
    pairs: ClassVar[bool] = False
    """Whether it ranks pairs of answers, which other baselines cannot."""
    title: ClassVar[str]
    """Its name in a sentence."""

    @classmethod
    def suits(cls, task: Task) -> bool:
        """Whether it stands beside the models by itself, where a recipe names no baselines."""
        return cls.can(task)

    @classmethod
    def can(cls, task: Task | TaskType) -> bool:
        """Whether it can do a task."""
        return task.kind in cls.tasks and task.pairs == cls.pairs

    @abstractmethod
    def answer(self, train: Sequence[Example], task: Task) -> list[Reply]:
        """Learn from the training rows and answer the task's."""
