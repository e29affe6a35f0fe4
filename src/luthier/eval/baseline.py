"""Baselines: the role `baseline`, and a plain classifier as a model of the evaluation.

A baseline is a cheap method that answers the same rows as the tuned model. The plain classifier returns a class and the
probability of every class.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from luthier.chat.messages import user_text_of
from luthier.core.artifact import Artifact
from luthier.core.component import Component
from luthier.core.errors import DataError
from luthier.eval.model import EvalModel
from luthier.eval.task import HeldOutTask, Reply, TaskKind, TaskType

if TYPE_CHECKING:
    from luthier.chat.messages import Example
    from luthier.models.text_classifier import TextClassifier


class Baseline(Component):
    """A simple baseline that learns from the training rows in seconds, or not at all, and answers the held-out ones."""

    role: ClassVar[str] = "baseline"
    home: ClassVar[str] = "luthier.eval.baselines"
    tasks: ClassVar[frozenset[TaskKind]]
    """The tasks that it can do."""
    pairs: ClassVar[bool] = False
    """Whether it ranks pairs of answers, which other baselines cannot."""
    title: ClassVar[str]
    """Its name in a sentence."""

    @classmethod
    def suits(cls, task: HeldOutTask) -> bool:
        """Return whether it is used by default, where a recipe names no baselines."""
        return cls.can(task)

    @classmethod
    def can(cls, task: HeldOutTask | TaskType) -> bool:
        """Return whether it supports a task."""
        return task.kind in cls.tasks and task.pairs == cls.pairs

    @abstractmethod
    def answer(self, train: Sequence[Example], task: HeldOutTask) -> list[Reply]:
        """Learn from the training rows and answer the task's."""


class ClassifierEvalModel(EvalModel):
    """A TF-IDF classifier (`technique: plain`) as an evaluated model; it is loaded for the first rows."""

    def __init__(self, artifact: Artifact, *, name: str, title: str) -> None:
        self.name, self.title, self.digest = name, title, artifact.digest
        self._artifact = artifact

    @cached_property
    def _model(self) -> TextClassifier:
        from luthier.models.text_classifier import TextClassifier

        return TextClassifier.open(self._artifact.folder)

    def answer(self, examples: Sequence[Example], task: HeldOutTask) -> list[Reply]:
        """Name the class of some rows."""
        if task.kind != "label" or task.pairs:
            requested = "which of two answers is better" if task.pairs else "written answers"
            what = f"a plain classifier names classes, and these rows ask for {requested}"
            raise DataError(what, hint="evaluate it on rows of classes")
        if not {*task.options} & {*self._model.classes}:
            what = f"no class of these rows is one of the classifier's ({', '.join(self._model.classes)})"
            raise DataError(what, hint="evaluate it on rows like those that it was made from")
        scores = self._model.scores([user_text_of(example) for example in examples], task.labels)
        return [Reply.of_scores(row) for row in scores]
