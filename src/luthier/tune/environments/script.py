"""A simulated user whose turns are written in advance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from luthier.core.errors import DataError, SourceLocation
from luthier.tune.environment import Environment, EnvironmentConversation


class FixedTurnsEnvironment(Environment):
    """Reply with the next of some fixed lines after each turn, whatever the model said.

    The conversation ends when the lines do.
    """

    kind: Literal["script"] = "script"

    lines: tuple[str, ...] = ()
    """Replies in every conversation, in order."""
    column: str | None = None
    """A column of the data with the lines of each row: a list of texts, or one text."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if bool(self.lines) == (self.column is not None):
            raise ValueError("expected either `lines`, the same for all rows, or a `column` that has them")
        return self

    def answer(self, talks: Sequence[EnvironmentConversation], recipe_dir: Path) -> list[str | None]:
        """Return the next line of each conversation."""
        return [self._next(talk) for talk in talks]

    def _next(self, talk: EnvironmentConversation) -> str | None:
        lines, index = self._lines(talk), len(talk.turns) // 2
        return lines[index] if index < len(lines) else None

    def _lines(self, talk: EnvironmentConversation) -> Sequence[str]:
        if self.column is None:
            return self.lines
        value = talk.example.meta.get(self.column)
        lines = [value] if isinstance(value, str) else value
        if isinstance(lines, list) and all(isinstance(line, str) for line in lines):
            return lines
        origin = talk.example.origin
        where = SourceLocation(file=origin.file, line=origin.line, field=self.column)
        raise DataError(f"expected a text or a list of texts, got {value!r}", where=where, hint="mend the row")
