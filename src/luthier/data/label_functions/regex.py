"""A pattern that gives a label away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from luthier.data.engine.cache import prompt_or_answer_of
from luthier.data.label_function import LabelFunction
from luthier.data.row import Row


class RegexLabelFunction(LabelFunction):
    """Vote for a label where the text matches a regular expression, which runs in linear time on every text.

    The syntax is that of Rust's `regex`: as usual, without look-around and back-references. `(?i)` ignores case.
    """

    kind: Literal["regex"] = "regex"
    label: str = Field(default="yes", min_length=1)
    """The label that it votes for."""
    pattern: str = Field(default=r"\?\s*$", min_length=1)
    """The regular expression, found anywhere in the text."""

    @field_validator("pattern")
    @classmethod
    def _is_a_pattern(cls, pattern: str) -> str:
        import polars as pl

        try:
            pl.Series([""]).str.contains(pattern)
        except pl.exceptions.ComputeError as error:
            message = str(error).replace("\n", " ")[:200]
            raise ValueError(f"{pattern!r} is not a pattern that runs in linear time: {message}") from error
        return pattern

    @property
    def says(self) -> str:
        """The label."""
        return self.label

    def vote(self, rows: Sequence[Row]) -> list[str | None]:
        """Match every text."""
        import polars as pl

        texts = pl.Series([prompt_or_answer_of(row) for row in rows], dtype=pl.String)
        return [self.label if hit else None for hit in texts.str.contains(self.pattern).to_list()]
