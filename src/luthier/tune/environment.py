"""Environments reply to a model between its turns: a tool that it calls, or a simulated user.

The model writes a turn, the environment replies, and the model goes on until the environment has no reply. Replies are
read and never trained on; rewards score the last turn, or the whole conversation, at its end.
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
    """A conversation that waits for a reply."""

    example: Example
    """The example with the first question."""
    turns: tuple[Message, ...]
    """Messages after the question; the last one is the model's."""

    @property
    def completion(self) -> str:
        """The text of the model's last turn."""
        return self.turns[-1].content

    @property
    def whole(self) -> tuple[Message, ...]:
        """All messages, the question included."""
        return (*prompt_of(self.example), *self.turns)


class Environment(Component):
    """The base class of environments, which reply to the model between its turns."""

    role: ClassVar[str] = "environment"
    home: ClassVar[str] = "luthier.tune.environments"

    turns: int = Field(default=3, ge=2, le=64)
    """Maximum number of the model's turns in a conversation, the last one included."""
    speaks_as: Literal["user", "tool"] = "user"
    """The role under which the chat template renders its replies; `tool` only where the template has tools."""
    longest: int = Field(default=400, ge=1)
    """Maximum length of a reply in characters; the rest is cut off."""
    deadline_s: float = Field(default=60.0, gt=0)
    """Seconds in which it must reply to all conversations of a step. When it takes longer, it is asked for each
    conversation alone (programs that hang add up); more time for one conversation is an error that ends training."""

    @abstractmethod
    def answer(self, talks: Sequence[EnvironmentConversation], recipe_dir: Path) -> list[str | None]:
        """Return the reply to each conversation, from that conversation alone; None ends it. Relative paths start at
        `recipe_dir`.
        """
