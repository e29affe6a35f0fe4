"""The role `reward`: a number for each completion, from the question, the completion and the data's own columns."""

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
    """One completion of an example's question."""

    example: Example
    """The example of the question; its own last answer is the reference, its `meta` every unmapped column of the
    data."""
    text: str
    """The completion; in a conversation with an environment, the last turn."""
    tokens: int
    """Number of tokens that the model wrote."""
    ended: bool = True
    """Whether it ended with an end token, rather than at the limit."""
    turns: tuple[Message, ...] = ()
    """Messages after the question in a conversation with an environment; empty without one."""

    @property
    def whole(self) -> tuple[Message, ...]:
        """The question and all messages after it."""
        turns = self.turns or (Message(role="assistant", content=self.text),)
        return (*prompt_of(self.example), *turns)

    @property
    def references(self) -> tuple[str, ...]:
        """The reference answers of the data: none, or one."""
        reference = answer_of(self.example) or self.example.label
        return (reference,) if reference else ()


@dataclass(frozen=True, kw_only=True)
class RewardContext(RunContext):
    """Context of rewards."""

    model: RewardModel | None = None
    """The reward model that the step reads, if any."""


class Reward(Component):
    """The base class of rewards, which score an answer; several are added up by their weights."""

    role: ClassVar[str] = "reward"
    home: ClassVar[str] = "luthier.tune.rewards"
    needs_model: ClassVar[bool] = False
    """Whether it uses a trained reward model, which the step then reads."""

    weight: float = 1.0
    """Weight in the sum of rewards; a negative weight makes it a penalty."""
    label: str = ""
    """What it is called in the log (`reward_…`); its kind when empty. Two rewards of one kind need two labels."""
    deadline_s: float = Field(default=60.0, gt=0)
    """Maximum seconds for all answers of a step; more is a fault."""
    on_fault: Literal["stop", "leave_out"] = "stop"
    """What follows when it fails, takes too long or gives no finite number: training stops and names it, or the answers
    concerned are not learnt from, and are counted (`reward_faults`)."""

    @abstractmethod
    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """Return a number for each completion, from the completion alone; NaN where none can be computed."""

    @property
    def name(self) -> str:
        """Name in the log."""
        return self.label or self.kind
