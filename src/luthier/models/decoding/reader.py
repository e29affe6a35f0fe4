"""What reads a model for a decoder: it keeps what was read of each line, and says what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from luthier.models.decoding.line import Line


class Portion(NamedTuple):
    """The next tokens of a line that are to be read."""

    line: Line
    tokens: int

    @property
    def last(self) -> bool:
        """Whether the line is then wholly read, and goes on."""
        return self.line.read + self.tokens == len(self.line.ids)


class Reader(Protocol):
    """Reads lines portion by portion."""

    def open(self, line: Line) -> bool:
        """Make room for all tokens that a line may have; False while there is none."""

    def portions(self, waiting: Sequence[Line], budget: int) -> list[Portion]:
        """What of lines whose prompts are not wholly read is read next: of so many tokens in all, but something."""

    def read(self, portions: Sequence[Portion]) -> Tensor:
        """Read them; (lasts, vocab) logits in at least fp32 after those that are wholly read."""

    def close(self, line: Line) -> None:
        """Give a line's room back."""

    def adopt(self, model: Any) -> None:
        """Read the same weights from now on, with the adapters that are over them in this model."""

    @property
    def cached(self) -> int:
        """Tokens that would be found again."""
