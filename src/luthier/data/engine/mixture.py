"""Sizes of a mixture: how many rows each dataset gives, from weights or a temperature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from luthier.core.errors import DataError, SourceLocation


class MixtureSpec(NamedTuple):
    """How a mixture is wished."""

    weights: Sequence[float] | None
    """How much each data set counts; None: by its size, tempered."""
    temperature: float
    rows: int | None
    """Rows in all; None: all that there are, as far as weights and repeats allow."""
    repeats: int
    """How often one row may stand at most."""


def compute_mixture_shares(sizes: Sequence[int], ask: MixtureSpec) -> list[float]:
    """Compute each data set's share of the mixture; the shares sum to one.

    Without weights a data set of n rows has the part n^(1/T) over the sum of these (Arivazhagan et al., 2019): T = 1
    keeps the sizes, a large T makes all parts equal.
    """
    raw = ask.weights or [size ** (1.0 / ask.temperature) if size else 0.0 for size in sizes]
    whole = math.fsum(raw) or 1.0
    return [entry / whole for entry in raw]


def mixture_row_counts(sizes: Sequence[int], ask: MixtureSpec) -> list[int]:
    """Rows that each data set gives, repeats included; `DataError` when one cannot give its part."""
    parts = compute_mixture_shares(sizes, ask)
    for at, (size, part) in enumerate(zip(sizes, parts, strict=True)):
        if part and not size:
            raise _lacking(at, 0, 1)
    total = ask.rows if ask.rows is not None else _natural(sizes, parts, ask.repeats)
    found = _whole(total, parts)
    for at, (size, count) in enumerate(zip(sizes, found, strict=True)):
        if count > size * ask.repeats:
            raise _lacking(at, size * ask.repeats, count)
    return found


def _natural(sizes: Sequence[int], parts: Sequence[float], repeats: int) -> int:
    """All rows of every data set when that needs few enough repeats, else as many as the repeats allow."""
    known = [(size, part) for size, part in zip(sizes, parts, strict=True) if part]
    if not known:
        raise DataError(
            "no training row is left", where=SourceLocation(field="data"), hint="check what the data sets hold"
        )
    whole = max(size / part for size, part in known)
    most = min(size * repeats / part for size, part in known)
    total = math.floor(min(whole, most) * (1 + 1e-12))
    while total > 1 and any(count > size * repeats for size, count in zip(sizes, _whole(total, parts), strict=True)):
        total -= 1
    return total


def _whole(total: int, parts: Sequence[float]) -> list[int]:
    """Whole numbers that sum to the total: the largest remainders are rounded up, the first of equal ones."""
    exact = [total * part for part in parts]
    found = [math.floor(entry + 1e-9) for entry in exact]
    order = sorted(range(len(parts)), key=lambda at: (found[at] - exact[at], at))
    for at in order[: total - sum(found)]:
        found[at] += 1
    return found


def _lacking(at: int, most: int, requested: int) -> DataError:
    what = f"can give {most} training rows, and {requested} are wanted of it"
    hint = "ask for fewer `rows`, allow more `repeats`, or give it a smaller weight"
    return DataError(what, where=SourceLocation(field=f"data.{at}"), hint=hint)
