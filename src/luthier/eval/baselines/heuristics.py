"""Baselines of one rule: the longer answer, the first sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.chat.messages import user_text_of
from luthier.chat.preference import PreferencePair, pair_of
from luthier.core.messages import gettext_noop
from luthier.eval.baseline import Baseline
from luthier.eval.task import FIRST, SECOND, HeldOutTask, Reply, TaskKind, build_answer_pair

if TYPE_CHECKING:
    from luthier.chat.messages import Example


class LengthBaseline(Baseline):
    """Prefer the longer answer where people did so more often than not in training, else the shorter.

    A reward model that ranks no better than this has learnt to count.
    """

    kind: Literal["length"] = "length"
    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"label"})
    pairs: ClassVar[bool] = True
    title: ClassVar[str] = gettext_noop("the longer or the shorter answer")

    def answer(self, train: Sequence[Example], task: HeldOutTask) -> list[Reply]:
        share = _share_of_longer([pair for entry in train if isinstance(pair := pair_of(entry), PreferencePair)])
        return [_reply(build_answer_pair(example).answers, share) for example in task.examples]


def _share_of_longer(pairs: Sequence[PreferencePair]) -> float:
    """Return how often the longer answer is preferred; one pair of each kind is added (Laplace smoothing)."""
    lengths = [(len(pair.chosen.content), len(pair.rejected.content)) for pair in pairs]
    longer = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
    return (sum(longer) + 1) / (len(longer) + 2)


def _reply(answers: tuple[str, str], share: float) -> Reply:
    first, second = map(len, answers)
    shares = {FIRST: share, SECOND: 1 - share} if first > second else {FIRST: 1 - share, SECOND: share}
    if first == second:
        shares = dict.fromkeys(shares, 0.5)
    scores = {label: round(math.log(value), 6) for label, value in shares.items()}
    return Reply(prediction=max(scores, key=scores.__getitem__), scores=scores)


_BREAK = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])|\n+")
_SHORTER, _LONG = 2.0, 4
"""Ratio of a question's to its answer's length, and its number of sentences, from which it counts as a summary task."""


class LeadSentencesBaseline(Baseline):
    """The first sentences of the question, or lines where it is a conversation (lead-3, as summaries are measured).

    It stands beside the models by itself where questions are long and answers much shorter.
    """

    kind: Literal["lead"] = "lead"
    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"text"})
    title: ClassVar[str] = gettext_noop("the first sentences of the text")
    sentences: int = Field(default=3, ge=1)
    """How many."""

    @classmethod
    def suits(cls, task: HeldOutTask) -> bool:
        """Return whether the rows look like summaries."""
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
