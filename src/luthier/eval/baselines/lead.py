"""The first sentences of what is asked about: what a summary scores that copies the beginning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.chat.messages import user_text_of
from luthier.eval.baseline import Baseline
from luthier.eval.task import HeldOutTask, Reply, TaskKind

if TYPE_CHECKING:
    from luthier.chat.messages import Example

_BREAK = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])|\n+")
_SHORTER, _LONG = 2.0, 4
"""Questions that are so many times longer than their answers, and have so many sentences, ask for a summary."""


class LeadSentencesBaseline(Baseline):
    """The first sentences of the question, or lines where it is a conversation (lead-3, as summaries are measured).

    It stands beside the models by itself where questions are long and answers much shorter.
    """

    kind: Literal["lead"] = "lead"
    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"text"})
    title: ClassVar[str] = "the first sentences of the text"
    sentences: int = Field(default=3, ge=1)
    """How many."""

    @classmethod
    def suits(cls, task: HeldOutTask) -> bool:
        """Whether the rows look like summaries."""
        if not cls.can(task) or not task.examples:
            return False
        pairs = zip(task.examples, task.references, strict=True)
        lengths = [
            (len(_parts(user_text_of(example))), len(user_text_of(example)), len(answer)) for example, answer in pairs
        ]
        longer = median(question / max(1, answer) for _, question, answer in lengths)
        return longer >= _SHORTER and median(parts for parts, _, _ in lengths) >= _LONG

    def answer(self, train: Sequence[Example], task: HeldOutTask) -> list[Reply]:
        return [
            Reply(prediction=" ".join(_parts(user_text_of(example))[: self.sentences])) for example in task.examples
        ]


def _parts(text: str) -> list[str]:
    return [part.strip() for part in _BREAK.split(text) if part and part.strip()]
