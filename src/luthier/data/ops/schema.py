"""Rules that columns must keep: what is allowed, required, unique, in range."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from luthier.core.component import add_field_descriptions, refuse_unknown_settings
from luthier.core.errors import DataError, SourceLocation
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.data.cleaning.spelling import find_misspellings
from luthier.data.dedup.shingles import digest16
from luthier.data.operator import Column, Drop, OperatorResult, Reads, RowCorpus, SetOperator, Suggestion
from luthier.data.row import Row, chunk_by_size, count_row_characters

if TYPE_CHECKING:
    from luthier.data.suggest.profile import SourceProfile

_ROWS = 1024

_TEXTS = ("prompt", "answer", "group")


class ColumnRule(BaseModel):
    """What the values of one column must be."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra=add_field_descriptions, allow_inf_nan=False
    )

    required: bool = True
    """Whether every row must have a value; an empty text is none."""
    allowed: tuple[str | bool | int | float, ...] | None = None
    """The only values there may be."""
    type: Literal["text", "number", "integer", "boolean"] | None = None
    """What a value must be; numbers written as text count as numbers."""
    at_least: float | None = None
    """The smallest number."""
    at_most: float | None = None
    """The largest number."""
    min_chars: int | None = Field(default=None, ge=0)
    """The fewest characters."""
    max_chars: int | None = Field(default=None, ge=0)
    """The most characters."""
    pattern: str | None = None
    """A regular expression for the whole value (Rust's dialect, which is linear in time)."""
    unique: bool = False
    """Whether no value may come twice."""

    @model_validator(mode="before")
    @classmethod
    def _known_settings(cls, data: Any) -> Any:
        return refuse_unknown_settings(cls, data)

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            _matches([""], value)
        return value

    def broken(self, value: Any) -> str | None:
        """The first rule that a value breaks, in words; patterns and uniqueness are looked at for all rows at once."""
        if value is None or value == "":
            return "missing" if self.required else None
        if self.allowed is not None and value not in self.allowed and str(value) not in map(str, self.allowed):
            return "not allowed"
        if self.type is not None and not _is_a(value, self.type):
            return f"not a {self.type}" if self.type != "integer" else "not an integer"
        return self._out_of_range(value)

    def _out_of_range(self, value: Any) -> str | None:
        if self.at_least is not None or self.at_most is not None:
            number = _number(value)
            if number is None:
                return "not a number"
            if (self.at_least is not None and number < self.at_least) or (
                self.at_most is not None and number > self.at_most
            ):
                return "out of range"
        chars = len(str(value))
        too_short = self.min_chars is not None and chars < self.min_chars
        if too_short or (self.max_chars is not None and chars > self.max_chars):
            return "too short" if too_short else "too long"
        return None


class SchemaOperator(SetOperator):
    """Hold columns to rules: allowed values, types, ranges, lengths, patterns, uniqueness.

    `columns` names columns that stayed in `meta`, or `prompt`, `answer` and `group`. A row that breaks a rule is
    dropped with the column and the rule, flagged, or stops the run with its line.
    """

    kind: Literal["schema"] = "schema"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer", "meta", "group")
    writes: ClassVar[dict[str, Column]] = {"broken": "text"}

    columns: dict[str, ColumnRule] = Field(default_factory=dict)
    """Rules by column: `{priority: {allowed: [low, high]}, age: {type: integer, at_least: 0}}`."""
    action: Literal["drop", "flag", "stop"] = "drop"
    """Leave rows out that break a rule, only write down which, or stop."""

    @classmethod
    def suggest(cls, profile: SourceProfile) -> Suggestion | None:
        """Worth it when a column of few values holds a rare one that is nearly a frequent one: `urgnet`, `urgent`."""
        found = {
            name: odd
            for name, column in profile.columns.items()
            if column.is_class
            and not set(profile.answers) >= set(column.common)
            and (odd := find_misspellings(column.common))
        }
        if not found:
            return None
        rules = {
            name: {"allowed": sorted(set(profile.columns[name].common) - set(odd)), "required": False}
            for name, odd in found.items()
        }
        name, odd = next(iter(found.items()))
        (rare, usual), counts = next(iter(odd.items())), profile.columns[name].common
        few, many = counts[rare], counts[usual]
        why = gettext_noop(
            f"{name} is {rare!r} in {format_counted_noun(few, 'row')}, {usual!r} in {many}; such rows are marked, not "
            "dropped"
        )
        return Suggestion({"columns": rules, "action": "flag"}, why)

    def sketch(self, rows: Sequence[Row]) -> list[bytes]:
        """A digest of each value that must be unique; of a missing one, zeros."""
        names = self._unique()
        return [b"".join(_digest(_value(row, name)) for name in names) for row in rows]

    def _unique(self) -> list[str]:
        return [name for name, rule in self.columns.items() if rule.unique]

    def settle(self, corpus: RowCorpus) -> OperatorResult:
        """Judge every row."""
        broken = [""] * len(corpus)
        outcome = OperatorResult(attributes={"broken": broken})
        if not self.columns:
            return outcome
        again = self._repeated(corpus)
        for index, row, found in self._judged(corpus, again):
            broken[index] = ", ".join(f"{name} {how}" for name, how in found)
            if not found or self.action == "flag":
                continue
            name, how = found[0]
            if self.action == "stop":
                raise _error(row, name, how, self.columns[name])
            outcome.drops[index] = Drop(f"schema {name} {how}")
        return outcome

    def _judged(
        self, corpus: RowCorpus, again: dict[str, set[int]]
    ) -> Iterator[tuple[int, Row, list[tuple[str, str]]]]:
        """Each row with the columns and rules that it breaks."""
        start = 0
        for rows in chunk_by_size(corpus.rows(), _ROWS, count_row_characters):
            odd = {name: self._odd(rows, name) for name, rule in self.columns.items() if rule.pattern is not None}
            for at, row in enumerate(rows):
                found: list[tuple[str, str]] = []
                for name, rule in self.columns.items():
                    how = rule.broken(_value(row, name))
                    if how is None and at in odd.get(name, ()):
                        how = "not of its pattern"
                    if how is None and start + at in again.get(name, ()):
                        how = "not unique"
                    if how is not None:
                        found.append((name, how))
                yield start + at, row, found
            start += len(rows)

    def _odd(self, rows: Sequence[Row], name: str) -> set[int]:
        """Places of rows whose value does not match its pattern."""
        values = [_value(row, name) for row in rows]
        pattern = self.columns[name].pattern
        assert pattern is not None
        fits = _matches(["" if value is None else str(value) for value in values], pattern)
        return {at for at, value in enumerate(values) if value not in (None, "") and not fits[at]}

    def _repeated(self, corpus: RowCorpus) -> dict[str, set[int]]:
        """By column, places of rows whose value came before."""
        found: dict[str, set[int]] = {}
        for at, name in enumerate(self._unique()):
            digests = np.ascontiguousarray(corpus.sketches[:, 16 * at : 16 * (at + 1)]).view("V16").ravel()
            first = np.unique(digests, return_index=True)[1]
            filled = np.flatnonzero(digests != np.zeros(1, dtype="V16")[0]) if len(digests) else first
            found[name] = set(filled.tolist()) - set(first.tolist())
        return found


def _value(row: Row, name: str) -> Any:
    return getattr(row, name) if name in _TEXTS else row.meta.get(name)


def _digest(value: Any) -> bytes:
    return bytes(16) if value is None or value == "" else digest16(str(value))


def _is_a(value: Any, kind: Literal["text", "number", "integer", "boolean"]) -> bool:
    if kind == "text":
        return isinstance(value, str)
    if kind == "boolean":
        return isinstance(value, bool) or str(value).lower() in ("true", "false", "yes", "no", "0", "1")
    number = _number(value)
    return number is not None and (kind == "number" or number.is_integer())


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _matches(texts: Sequence[str], pattern: str) -> list[bool]:
    """Whether each text as a whole fits a pattern, by Rust's regular expressions."""
    import polars as pl

    try:
        found: list[bool] = pl.Series(texts, dtype=pl.String).str.contains(rf"\A(?:{pattern})\z").to_list()
    except pl.exceptions.ComputeError as error:
        raise ValueError(f"the pattern {pattern!r} cannot be read: {error}") from error
    return found


def _error(row: Row, name: str, how: str, rule: ColumnRule) -> DataError:
    value = str(_value(row, name))
    shown = value if len(value) <= 40 else f"{value[:40]}…"
    constraint = ", ".join(f"{key} {setting}" for key, setting in rule.model_dump(exclude_defaults=True).items())
    return DataError(
        f"{name} is {how}: got {shown!r}, expected {constraint or 'a value'}",
        where=SourceLocation(file=row.file, line=row.line, field=name),
        hint="mend the row, or set `action: drop` to leave such rows out and list them",
    )
