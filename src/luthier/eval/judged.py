"""Written answers judged by a trained reward model, which does not know whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from luthier.eval.contestant import Contestant
from luthier.eval.rows import Task
from luthier.text.messages import Message, answer_of, prompt_of

if TYPE_CHECKING:
    from luthier.models.reward_model import Judge

JUDGED = ("reward", "reward_won")
"""The columns that a reward model fills: its number, and 1 where that is above the number of the data's answer."""


def with_rewards(models: Sequence[Contestant], judge: Judge, task: Task) -> list[Contestant]:
    """The same models, each reply with what the reward model says of it."""
    known = judge([(*prompt_of(one), _said(answer_of(one))) for one in task.examples], _tools(task))
    return [_judged(model, judge, task, known) for model in models]


def _judged(model: Contestant, judge: Judge, task: Task, known: Sequence[float]) -> Contestant:
    pairs = zip(task.examples, model.replies, strict=True)
    found = judge([(*prompt_of(example), _said(reply.prediction)) for example, reply in pairs], _tools(task))
    replies = [
        replace(reply, columns={**(reply.columns or {}), "reward": round(mine, 6), "reward_won": _won(mine, its)})
        for reply, mine, its in zip(model.replies, found, known, strict=True)
    ]
    return replace(model, replies=replies)


def _tools(task: Task) -> list[tuple[dict[str, Any], ...]]:
    return [one.tools for one in task.examples]


def _said(text: str) -> Message:
    return Message(role="assistant", content=text)


def _won(mine: float, its: float) -> float:
    return 0.5 if mine == its else float(mine > its)
