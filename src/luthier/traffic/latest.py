"""The latest of what was asked, going back day by day until there is enough. Only ever imported inside a verb."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from pathlib import Path

from luthier.traffic.read import Told, days, told
from luthier.traffic.where import Where


def latest(
    folder: Path, count: int, since: datetime | None = None, until: datetime | None = None, where: Where | None = None
) -> list[Told]:
    """At most so many requests that a condition means, the latest last."""
    found: deque[Told] = deque()
    for begin, end in days(folder, since, until):
        room = count - len(found)
        if room <= 0:
            break
        found.extendleft(reversed(deque(told(folder, begin, end, where), maxlen=room)))
    return list(found)
