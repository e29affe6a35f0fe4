"""A line: one ask while it is being written, as far as it was read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from luthier.models.decoding.ask import Ask


@dataclass(eq=False)
class Line:
    """One ask while it is being written."""

    ticket: int
    ask: Ask
    end: int
    """How many tokens it has at most, prompt included."""
    ids: list[int]
    """The prompt, and what was written after it."""
    read: int = 0
    """How many of the ids have their keys and values in the cache."""
    found: int = 0
    """How many of the prompt's were found there."""
    chance: torch.Generator = field(default_factory=torch.Generator)
    place: Any = None
    """Where its keys and values lie: whoever reads it knows."""

    @property
    def written(self) -> list[int]:
        """What was written after the prompt."""
        return self.ids[len(self.ask.ids) :]

    @property
    def begun(self) -> bool:
        """Whether its whole prompt was read."""
        return self.read >= len(self.ask.ids)
