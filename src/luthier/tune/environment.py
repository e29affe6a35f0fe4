"""An environment answers a model that writes: a tool that it may call, or somebody who talks with it.

The model writes a turn, the environment answers, the model goes on, until the environment has nothing more to say. What
it says is read and never learnt; rewards judge the last turn, or the whole conversation, when all is said.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from luthier.chat.messages import Example, Message, prompt_of
from luthier.core.component import Component


class EnvironmentConversation(NamedTuple):
    """A conversation that waits for an answer."""

    example: Example
    """Whose question it began with."""
    turns: tuple[Message, ...]
    """What was said after the question; the last turn is the model's."""

    @property
    def completion(self) -> str:
        """What the model said last."""
        return self.turns[-1].content

    @property
    def whole(self) -> tuple[Message, ...]:
        """The question and all that was said."""
        return (*prompt_of(self.example), *self.turns)


class Environment(Component):
    """The base class of environments, which reply to the model between its turns."""

    role: ClassVar[str] = "environment"
    home: ClassVar[str] = "luthier.tune.environments"

    turns: int = Field(default=3, ge=2, le=64)
    """Most turns of the model's in one conversation, the last included."""
    speaks_as: Literal["user", "tool"] = "user"
    """The role under which the chat template writes what it says; `tool` only where the template knows tools."""
    longest: int = Field(default=400, ge=1)
    """Longest text that it says, in characters; the rest is cut off."""
    deadline_s: float = Field(default=60.0, gt=0)
    """Seconds in which it must have answered all conversations of a step; else it is asked in each alone (programs that
    hang add up), and more for one is a fault, which ends training."""

    @abstractmethod
    def answer(self, talks: Sequence[EnvironmentConversation], recipe_dir: Path) -> list[str | None]:
        """What it says in each conversation, from that conversation alone; None where it has nothing to say, which ends
        it. Relative paths start at `recipe_dir`."""
