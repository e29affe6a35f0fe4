"""The interface of a model in an evaluation: a language model, a classifier or a baseline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.eval.task import HeldOutTask, Reply
from luthier.models.lm.base import Ability

if TYPE_CHECKING:
    from luthier.chat.messages import Example
    from luthier.eval.baseline import Baseline
    from luthier.models.lm.base import LanguageModel

Verb = Literal["answer"] | Ability
"""Operations of an evaluated model."""


class EvalModel(ABC):
    """The interface of a model or baseline that answers the rows of an evaluation."""

    is_model: ClassVar[bool] = True
    """Whether it is a model rather than a plain baseline."""
    name: str
    title: str
    digest: str
    """Names all that decides its answers."""
    lm: LanguageModel | None = None

    @abstractmethod
    def answer(self, examples: Sequence[Example], task: HeldOutTask) -> list[Reply]:
        """Answers to rows of a task, as to the held-out ones."""

    @property
    def media_kinds(self) -> frozenset[str]:
        """The kinds of media that its processor reads, `image` or `audio`; of an endpoint they are not known."""
        from luthier.models.lm.local import LocalLM

        media = self.lm.text.media if isinstance(self.lm, LocalLM) else None
        return frozenset(media.written) if media is not None else frozenset()

    @property
    def able(self) -> frozenset[Verb]:
        """The ways in which it can be asked."""
        return frozenset({"answer", *(self.lm.abilities if self.lm is not None else ())})


class TrainedBaseline(EvalModel):
    """A baseline together with the rows that it is fitted on."""

    is_model = False

    def __init__(self, baseline: Baseline, trained_examples: Sequence[Example]) -> None:
        from luthier.core.hashing import digest_of

        self.name, self.title = baseline.kind, baseline.title
        self.digest = digest_of([baseline.settings(), [example.id for example in trained_examples]])
        self._baseline, self._learnt = baseline, trained_examples

    def answer(self, examples: Sequence[Example], task: HeldOutTask) -> list[Reply]:
        """Learn, and answer rows of a task."""
        from dataclasses import replace

        return self._baseline.answer(self._learnt, replace(task, examples=tuple(examples)))
