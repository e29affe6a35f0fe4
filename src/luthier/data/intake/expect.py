"""What a data set will hold, told from its first rows, the file's size and the split, before all of it is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from luthier.core.step import Outline
from luthier.data.intake.mapping import Parts
from luthier.data.passes.pipeline import grouped
from luthier.data.row import Record
from luthier.data.source import Source
from luthier.data.split import TEST, TRAIN, VALIDATION, Split

_MARKS_CHARS = 2
"""Separators and quotes around a value in a file."""
_NAME_CHARS = 5
"""The same around a column's name where every row says it."""


def expected(source: Source, split: Split, base: Path) -> Outline:
    """Rows by split, and the characters of one; what cannot be known is None."""
    seen = grouped(source, split).glance(base)
    number = _rows(seen, source.size(base), source)
    rows = _split(split, number)
    if not seen:
        return Outline(rows=rows or None, how="as the split says" if rows else "")
    texts = ["".join(f"<{turn.role}>{turn.content}" for turn in parts.messages) for _, parts in seen]
    turns = [turn for _, parts in seen for turn in parts.messages]
    answers = [turn.content for turn in turns if turn.role == "assistant"]
    return Outline(
        rows=rows or None,
        characters=sum(map(len, texts)) / len(texts),
        lengths=tuple(map(len, texts)),
        shared=float(_alike(texts)),
        answered=sum(map(len, answers)) / len(texts),
        answers=sorted(set(answers)),
        how=f"rows and their length told from the first {len(seen)}",
    )


def _rows(seen: Sequence[tuple[Record, Parts]], size: int | None, source: Source) -> int | None:
    """The file's rows: its bytes over those of a row seen."""
    if not seen or size is None:
        return source.first
    written = sum(_written(record, names_columns=source.names_columns) for record, _ in seen)
    number = max(len(seen), round(size / max(1.0, written / len(seen))))
    return number if source.first is None else min(number, source.first)


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


def _alike(texts: Sequence[str]) -> int:
    """How many leading characters all texts share; 0 for a single one."""
    if len(texts) < 2:
        return 0
    first, last = min(texts), max(texts)
    return next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
