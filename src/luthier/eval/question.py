"""What a model can be asked, and what it answers: the seam between tasks and probes and whoever answers them.

A prompt is plain text, read as it stands, or the messages of a conversation, read through the model's chat template
with the model's own prompt in front.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.text.messages import as_openai

if TYPE_CHECKING:
    from luthier.text.messages import Message


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """How likely is this answer after this prompt?"""

    prompt: str | tuple[Message, ...]
    answer: str
    greedy: bool = False
    """Whether it is to be told if greedy writing would say the answer."""

    def as_json(self) -> list[Any]:
        """What names the question."""
        return ["likelihood", _plain(self.prompt), self.answer, self.greedy]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How likely is a whole text, however long, with nothing before it?"""

    text: str

    def as_json(self) -> list[Any]:
        """What names the question."""
        return ["reading", self.text]


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What would the model write after this prompt?"""

    prompt: str | tuple[Message, ...]
    limit: int
    """Most tokens."""
    until: tuple[str, ...] = ()
    """Texts at the first of which the answer ends, without it."""
    temperature: float = 0.0
    """0 always takes the likeliest token."""
    top_p: float = 1.0

    def as_json(self) -> list[Any]:
        """What names the question."""
        return ["writing", _plain(self.prompt), self.limit, list(self.until), self.temperature, self.top_p]


Question = Likelihood | Reading | Writing


@dataclass(frozen=True, kw_only=True)
class Told:
    """A model's answer to one question; what was not asked is None."""

    logprob: float | None = None
    """Natural log-likelihood of the answer or the text."""
    tokens: int | None = None
    """Over how many tokens it is a sum, or how many were written."""
    greedy: bool | None = None
    text: str | None = None
    """What was written."""
    finished: bool | None = None
    """Whether the model ended by itself, rather than at the limit."""
    cut: int = 0
    """Tokens of the prompt that were left out at its beginning, because the model reads no more at once."""


def until(text: str, ends: tuple[str, ...]) -> str:
    """A text up to the first of some ends, without it."""
    for end in ends:
        text = text.split(end, 1)[0] if end else text
    return text


def _plain(prompt: str | tuple[Message, ...]) -> Any:
    return prompt if isinstance(prompt, str) else as_openai(prompt)
