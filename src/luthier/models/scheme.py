"""How frozen weights are packed; known without torch, for a footprint is asked before anything is opened."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Scheme(NamedTuple):
    """How frozen weights are packed: bits a number, and how many numbers share a scale."""

    bits: Literal[4, 8]
    group: int

    @property
    def bytes_a_number(self) -> float:
        """The scales included."""
        return self.bits / 8 + 4 / self.group
