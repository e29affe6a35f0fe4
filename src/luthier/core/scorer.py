"""What gives rows of answers further numbers before metrics read them: models that judge, programs that run code.

A metric is pure: it reads columns of numbers. Whatever costs a model or a process is a scorer, which fills such columns
once, before anything is measured, so that scores, slices, resamples and comparisons all read the same numbers. None in
a column is a gap: no number could be had. Metrics leave gaps out, count them, and say so.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from luthier.core.component import Component

Column = list[float | None]


@dataclass(frozen=True, kw_only=True)
class ScorerRow:
    """One row as a scorer reads it."""

    question: str = ""
    """What was asked; empty when it is not known."""
    prediction: str
    references: tuple[str, ...]
    samples: tuple[str, ...] = ()
    """Further answers of the same model to the same question."""


@dataclass(frozen=True, kw_only=True)
class ScorerContext:
    """Where a scorer works."""

    base: Path
    """Relative paths in settings start here: the recipe's folder."""
    kept: Path
    """A folder that outlives a killed run: what was paid for is kept here by a digest of its content."""
    say: Callable[[str], None]
    """Is told what the user should know."""
    model: Callable[[str], Path]
    """The folder of a model by its name, in Hugging Face's layout."""


class Scorer(Component):
    """A component that computes one or more columns of per-row numbers, from which metrics are calculated."""

    role: ClassVar[str] = "scorer"
    home: ClassVar[str] = "luthier.*.scorers"
    writes: ClassVar[tuple[str, ...]]
    """The columns that it fills."""
    asks: ClassVar[bool] = False
    """Whether rows must say what was asked."""

    @abstractmethod
    def columns(self, rows: Sequence[ScorerRow], context: ScorerContext) -> dict[str, Column]:
        """A number for each row in each of `writes`, None where none could be had."""
