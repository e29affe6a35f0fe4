"""What answers are worth: every reward is asked under its deadline, and what fails is named and counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from luthier.core.deadline import Failed, tried
from luthier.core.errors import ModelError, Where
from luthier.tune.reward import Attempt, Bench, Reward


@dataclass
class Scores:
    """The rewards of some answers: each part, their weighted sum, and what went wrong."""

    total: list[float]
    """NaN for an answer that is left out."""
    parts: dict[str, list[float]]
    """By the name of the reward; NaN where it failed."""
    faults: dict[str, str] = field(default_factory=dict)
    """The first fault of each reward that had one."""

    @property
    def left_out(self) -> int:
        """How many answers have no sum."""
        return sum(map(math.isnan, self.total))


def score(rewards: Sequence[Reward], attempts: Sequence[Attempt], bench: Bench) -> Scores:
    """The rewards of some answers, in order."""
    scores = Scores([0.0] * len(attempts), {})
    for reward in rewards:
        part = _part(reward, attempts, bench, scores.faults)
        scores.parts[reward.name] = part
        scores.total = [total + reward.weight * one for total, one in zip(scores.total, part, strict=True)]
    return scores


def _part(reward: Reward, attempts: Sequence[Attempt], bench: Bench, faults: dict[str, str]) -> list[float]:
    """One reward of all answers; when it fails on all of them together, of one after another."""
    found, why = _asked(reward, attempts, bench)
    if why:
        alone = [_asked(reward, [attempt], bench) for attempt in attempts]
        found = [values[0] for values, _ in alone]
        reasons = [reason for _, reason in alone]
    else:
        reasons = ["" if math.isfinite(value) else f"gave {value}" for value in found]
    for attempt, reason in zip(attempts, reasons, strict=True):
        if reason:
            _fault(reward, attempt, reason, faults)
    return [value if math.isfinite(value) else math.nan for value in found]


def _asked(reward: Reward, attempts: Sequence[Attempt], bench: Bench) -> tuple[list[float], str]:
    """What a reward says, or NaN and what went wrong; what it says of the user's input is passed on."""
    try:
        found = tried(reward.deadline_s, lambda: [float(value) for value in reward.score(attempts, bench)])
    except Failed as failed:
        return [math.nan] * len(attempts), str(failed)
    if len(found) != len(attempts):
        return [math.nan] * len(attempts), f"gave {len(found)} numbers for {len(attempts)} answers"
    return found, f"gave {found[0]}" if len(found) == 1 and not math.isfinite(found[0]) else ""


def _fault(reward: Reward, attempt: Attempt, reason: str, faults: dict[str, str]) -> None:
    """Take note of a fault, or stop for it."""
    example = attempt.example
    what = f"the reward {reward.name} failed on an answer to example {example.id}: {reason}"
    if reward.on_fault == "stop":
        where = Where(file=example.origin.file, line=example.origin.line, field="objective.rewards")
        remedy = (
            f"mend it, or set `on_fault: leave_out` to go on without such answers; the answer began {_head(attempt)}"
        )
        raise ModelError(what, where=where, remedy=remedy)
    faults.setdefault(reward.name, what)


def _head(attempt: Attempt) -> str:
    return repr(attempt.text[:60])
