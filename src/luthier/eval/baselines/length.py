"""The longer of two answers, or the shorter: what a preference comes to when only length counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.chat.preference import PreferencePair, pair_of
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
    title: ClassVar[str] = "the longer or the shorter answer"

    def answer(self, train: Sequence[Example], task: HeldOutTask) -> list[Reply]:
        share = _share_of_longer([pair for entry in train if isinstance(pair := pair_of(entry), PreferencePair)])
        return [_reply(build_answer_pair(example).answers, share) for example in task.examples]


def _share_of_longer(pairs: Sequence[PreferencePair]) -> float:
    """How often the longer answer is preferred where one is longer; one pair of each kind is added, so that nothing is
    sure."""
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
