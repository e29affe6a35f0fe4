"""Where a number is worst: the slice of the traffic, and the requests that show it."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.core.expressions import Expression
from luthier.monitor.message import Slice
from luthier.monitor.signal import Eye, Row, Span

SHOWN = 3
LABEL = "label"
"""The slices of the true classes: on one class alone an average over classes says nothing, so rows are averaged."""
FEWEST = 10
"""A slice with fewer rows says nothing."""
_MOST_SLICES = 50


def worst_slice(eye: Eye, when: Expression, rows: Sequence[Row]) -> Slice | None:
    """The slice that is beyond the whole by most; None where no slice is worse than the whole."""
    whole, rowwise = _value(eye, when, rows), _mean(eye, rows)
    sign = 1.0 if when.upward else -1.0
    found: list[tuple[float, int, Slice]] = []
    for (column, value), mine in _slices(rows).items():
        reading, usual = (_mean(eye, mine), rowwise) if column == LABEL else (_value(eye, when, mine), whole)
        if reading is not None and usual is not None and sign * (reading - usual) > 0:
            told = Slice(column=column, value=value, reading=reading, events=len(mine))
            found.append((sign * reading, len(mine), told))
    return max(found, key=lambda one: one[:2])[2] if found else None


def _value(eye: Eye, when: Expression, rows: Sequence[Row]) -> float | None:
    reading = eye.measure(rows, Span(0.0, len(rows), ends=False)).get(when.name)
    return None if reading is None else reading.value


def _mean(eye: Eye, rows: Sequence[Row]) -> float | None:
    each = eye.each(rows)
    return None if each is None else sum(each) / len(rows)


def _slices(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Slices that hold some of the rows and not all, the largest when there are many."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        for pair in row.about:
            groups.setdefault(pair, []).append(row)
    able = [(pair, mine) for pair, mine in groups.items() if FEWEST <= len(mine) < len(rows)]
    return dict(sorted(able, key=lambda one: (-len(one[1]), one[0]))[:_MOST_SLICES])


def examples(eye: Eye, when: Expression, rows: Sequence[Row]) -> tuple[str, ...]:
    """The ids of the requests that are farthest on the wrong side, the latest first among equals."""
    each = eye.each(rows)
    if each is None:
        return ()
    sign = -1.0 if when.upward else 1.0
    order = sorted(range(len(rows)), key=lambda place: (sign * each[place], -place))
    return tuple(dict.fromkeys(rows[place].trace for place in order))[:SHOWN]
