"""A reward says how good an answer is: a number for each, from the question, the answer and what the data say of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from luthier.chat.messages import Example, Message, answer_of, prompt_of
from luthier.core.component import Component
from luthier.core.context import RunContext
from luthier.models.reward_model import RewardModel


class RewardCompletion(NamedTuple):
    """One answer to an example's question."""

    example: Example
    """Whose question it is; its own last answer is the reference, its `meta` every other column of the data."""
    text: str
    """The answer; of a conversation with an environment, the last turn."""
    tokens: int
    """How many the model wrote."""
    ended: bool = True
    """Whether it ended by itself, rather than at the limit."""
    turns: tuple[Message, ...] = ()
    """All that was said after the question in a conversation with an environment; empty without one."""

    @property
    def whole(self) -> tuple[Message, ...]:
        """The question and all that was said after it."""
        turns = self.turns or (Message(role="assistant", content=self.text),)
        return (*prompt_of(self.example), *turns)

    @property
    def references(self) -> tuple[str, ...]:
        """What the data give for an answer: none, or one."""
        reference = answer_of(self.example) or self.example.label
        return (reference,) if reference else ()


@dataclass(frozen=True, kw_only=True)
class RewardContext(RunContext):
    """What a reward works with."""

    model: RewardModel | None = None
    """The reward model that the step reads, when it reads one."""


class Reward(Component):
    """The base class of rewards, which score an answer; several are added up by their weights."""

    role: ClassVar[str] = "reward"
    home: ClassVar[str] = "luthier.tune.rewards"
    needs_model: ClassVar[bool] = False
    """Whether it asks a trained reward model, which the step then reads."""

    weight: float = 1.0
    """What it is multiplied by before rewards are added up; below zero it is a penalty."""
    label: str = ""
    """What it is called in the log (`reward_…`); its kind when empty. Two rewards of one kind need two labels."""
    deadline_s: float = Field(default=60.0, gt=0)
    """Seconds that it may take for all answers of a step; more is a fault."""
    on_fault: Literal["stop", "leave_out"] = "stop"
    """What follows when it fails, takes too long or gives no finite number: training stops and names it, or the answers
    concerned are not learnt from, and are counted (`reward_faults`)."""

    @abstractmethod
    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """A number for each answer; follows from them alone. NaN where none can be had."""

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return self.label or self.kind
