"""What a data set will hold, told before it is made: from rows read in a moment, the file's size, and the split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from luthier.core.spread import spread
from luthier.core.step import Outline
from luthier.data.intake.mapping import Parts
from luthier.data.passes.pipeline import grouped
from luthier.data.row import Record
from luthier.data.source import Seen, Source
from luthier.data.split import TEST, TRAIN, VALIDATION, Split
from luthier.data.task import Answers
from luthier.text.dataset import OUTLINED, as_outlined
from luthier.text.messages import Example, Origin

_MARKS_CHARS = 2
"""Separators and quotes around a value in a file."""
_LOOKING_S = 0.3
"""How long rows are looked at after the first of them; a file of some megabytes is read whole by then."""
_NAME_CHARS = 5
"""The same around a column's name where every row says it."""


def expected(source: Source, split: Split, base: Path) -> Outline:
    """Rows by split, some of them, and what their answers are; what cannot be known is None."""
    seen = grouped(source, split).look(base, _LOOKING_S)
    rows = _split(split, len(seen.rows) if seen.whole else _rows(seen, source.size(base), source))
    if not seen.rows:
        return Outline(rows=rows or None, how="as the split says" if rows else "")
    answers = Answers()
    for _, parts in seen.rows:
        if parts.messages[-1].role == "assistant":
            answers.add(parts.messages[-1].content, parts.kind)
    return Outline(
        rows=rows or None,
        examples=[as_outlined(_example(source, *one)) for one in spread(seen.rows, OUTLINED)],
        task=answers.decide().task if answers.rows else None,
        answers=sorted(answers.labels),
        how="before operators drop any" if seen.whole else f"told from the first {len(seen.rows):,}",
    )


def bytes_read(source: Source, base: Path) -> int | None:
    """About how many bytes of a source are read, which may end with one of its first rows; None: it is not here."""
    size = source.size(base)
    if size is None or source.first is None or not (rows := source.look(base, 0).rows):
        return size
    return min(size, round(source.first * _mean(rows, source)))


def _example(source: Source, record: Record, parts: Parts) -> Example:
    """A row as an example, before it has a name."""
    origin = Origin(source=source.kind, file=record.file, line=record.line)
    return Example(id="", origin=origin, kind=parts.kind, messages=parts.messages, tools=parts.tools, meta=parts.meta)


def _rows(seen: Seen, size: int | None, source: Source) -> int | None:
    """The file's rows that can be used: its bytes over those of a row seen."""
    if not seen.rows or size is None:
        return source.first
    number = max(len(seen.rows), round(size / _mean(seen.rows, source)))
    number = number if source.first is None else min(number, source.first)
    return round(number * len(seen.rows) / (len(seen.rows) + seen.left_out))


def _mean(rows: Sequence[tuple[Record, Parts]], source: Source) -> float:
    """Bytes of a row in its file, one at least."""
    written = sum(_written(record, names_columns=source.names_columns) for record, _ in rows)
    return max(1.0, written / len(rows))


def _written(record: Record, *, names_columns: bool) -> int:
    """About how many bytes a file spends on a row."""
    values = sum(len(str(value).encode()) + _MARKS_CHARS for value in record.values.values())
    return values + sum(len(name.encode()) + _NAME_CHARS for name in record.values) if names_columns else values


def _split(split: Split, number: int | None) -> dict[str, int]:
    """Rows by split, as far as counts or the number of rows tell."""
    found: dict[str, int] = {}
    for name, part in ((TEST, split.test), (VALIDATION, split.validation)):
        if isinstance(part, int):
            found[name] = part
        elif number is not None:
            found[name] = round(part * number)
    if number is not None:
        left = max(0 if split.train == 0 else 1, number - sum(found.values()))
        found[TRAIN] = left if split.train is None else min(left, split.train)
    elif split.train is not None:
        found[TRAIN] = split.train
    return found
