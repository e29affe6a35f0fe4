"""The latest of what was asked, going back day by day until there is enough. Only ever imported inside a verb."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from luthier.traffic.folder import view
from luthier.traffic.read import Told, frame, told
from luthier.traffic.where import Where


def latest(
    folder: Path, count: int, since: datetime | None = None, until: datetime | None = None, where: Where | None = None
) -> list[Told]:
    """At most so many requests that a condition means, the latest last."""
    found: deque[Told] = deque()
    for begin, end in _days(folder, since, until):
        room = count - len(found)
        if room <= 0:
            break
        found.extendleft(reversed(deque(told(folder, begin, end, where), maxlen=room)))
    return list(found)


def _days(folder: Path, since: datetime | None, until: datetime | None) -> list[tuple[datetime, datetime]]:
    """Days that hold something, the last first, each cut to what is asked for."""
    days = set(view(folder).days["traces"])
    if view(folder).spooled:
        import polars as pl

        moments = frame(folder, "traces", since, until).select(
            pl.col("at").min().alias("a"), pl.col("at").max().alias("b")
        )
        first, last = moments.collect().row(0)
        if first is not None:
            days |= {first.date() + timedelta(days=place) for place in range((last.date() - first.date()).days + 1)}
    found = []
    for day in sorted(days, reverse=True):
        begin = datetime.combine(day, time.min, UTC)
        end = begin + timedelta(days=1)
        begin, end = max(begin, since or begin), min(end, until or end)
        if begin < end:
            found.append((begin, end))
    return found
