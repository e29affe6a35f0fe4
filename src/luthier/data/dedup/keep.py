"""Choose which of several duplicates stays: a rule, and each row's rank by it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from luthier.core.errors import DataError, SourceLocation, did_you_mean
from luthier.data.dedup.memory_map import copy_to_memory, release_mapped_pages
from luthier.data.dedup.shingles import ComplementIndexSet
from luthier.data.row import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ranks = NDArray[np.integer[Any]] | ComplementIndexSet

Keep = Literal["first", "last", "longest", "newest", "best"]
_BLOCK = 1 << 16


def check_keep_column(keep: Keep, by: str | None) -> None:
    """A rule that goes by a column needs one, the others take none; `ValueError` says so."""
    if keep in ("newest", "best") and by is None:
        what = "a date or a time" if keep == "newest" else "a number, of which the highest stays"
        raise ValueError(f"keep is `{keep}`, but `by` does not name the column with {what}")
    if keep not in ("newest", "best") and by is not None:
        raise ValueError(f"`by` is set, but `keep: {keep}` looks at no column; write `keep: newest` or `keep: best`")


def keep_preferences(rows: Sequence[Row], keep: Keep, by: str | None) -> list[float]:
    """A number for each row: of twins, the one with the highest stays, and the earlier of equals."""
    if keep == "first":
        return [0.0] * len(rows)
    if keep == "last":
        return [float(row.n) for row in rows]
    if keep == "longest":
        return [float(sum(len(message.content) for message in row.messages)) for row in rows]
    return [_number(row, by or "", is_time=keep == "newest") for row in rows]


def rank_by_preference(preferences: NDArray[np.float64]) -> Ranks:
    """Rank rows by preference, from 0 for the row to keep first; preferences may lie on the disk. Preferences may lie
    on the disk."""
    if _are_equal(preferences):
        return ComplementIndexSet(len(preferences))
    in_order = np.arange(len(preferences), dtype=np.uint32)
    found = np.empty_like(in_order)
    found[np.argsort(-copy_to_memory(preferences), kind="stable")] = in_order
    return found


def _are_equal(preferences: NDArray[np.float64]) -> bool:
    for start in range(0, len(preferences), _BLOCK):
        if not (preferences[start : start + _BLOCK] == preferences[0]).all():
            return False
        release_mapped_pages(preferences)
    return True


def _number(row: Row, column: str, *, is_time: bool) -> float:
    """The column's value; a row without one stays last."""
    where = SourceLocation(file=row.file, line=row.line, field=column)
    if column not in row.meta:
        known = did_you_mean(column, row.meta) if row.meta else "the row has no columns but those that speak"
        raise DataError(f"there is no column {column!r} to choose a twin by", where=where, hint=known)
    value = row.meta[column]
    if value is None or value == "":
        return -math.inf
    found = _parsed(value, is_time=is_time)
    if found is None:
        expected = (
            "a date such as 2026-03-01, a time such as 2026-03-01T10:00:00Z, or a number" if is_time else "a number"
        )
        raise DataError(
            f"expected {expected}, got {value!r}", where=where, hint="mend the row, or choose another column"
        )
    return found


def _parsed(value: Any, *, is_time: bool) -> float | None:
    try:
        number = float(value)
        return number if math.isfinite(number) else None
    except (TypeError, ValueError):
        pass
    if not is_time:
        return None
    try:
        time = datetime.fromisoformat(str(value).strip())
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
