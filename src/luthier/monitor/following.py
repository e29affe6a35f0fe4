"""Traffic as it comes: a folder looked at again and again, each event once, in order of time as far as it is known.

The first look reads the folder; the next ones read on where it ended, however busy the last minutes were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.traffic.record import Feedback, Trace

if TYPE_CHECKING:
    from luthier.traffic.stream import Arrivals

LATE = timedelta(minutes=5)
"""A request is written when it is answered, under the time at which it came: so much later at most."""


class Following:
    """Reads what was not read yet."""

    def __init__(self, folder: Path, since: datetime) -> None:
        self._folder = folder
        self._since = since
        self._seen: dict[tuple[str, str, datetime], None] = {}
        self._ahead: list[Trace | Feedback] = []
        """What came under a time that is still to come."""
        self._arrivals: Arrivals | None = None

    def fresh(self, until: datetime) -> Iterator[Trace | Feedback]:
        """Everything before a time that was not given out yet."""
        if not self._folder.exists():
            return
        ahead, self._ahead = self._ahead, []
        for event in self._come(ahead):
            name = _name(event)
            if event.at >= until:
                self._ahead.append(event)
            elif name[2] >= self._since and name not in self._seen:
                self._seen[name] = None
                yield event
        self._since = max(self._since, until - LATE)
        self._seen = {name: None for name in self._seen if name[2] >= self._since}

    def _come(self, ahead: Iterable[Trace | Feedback]) -> Iterable[Trace | Feedback]:
        """What may be new, in order of time: of a folder, what was written since; of a file, all of it."""
        from luthier.traffic.stream import Arrivals, events

        if self._folder.is_dir():
            self._arrivals = self._arrivals or Arrivals(self._folder)
            if self._arrivals.goes_on:
                return sorted((*ahead, *self._arrivals.fresh()), key=lambda event: event.at)
            self._arrivals.skip()  # first: what is written while the folder is read comes twice, and is known
        return events(self._folder, self._since)


def _name(event: Trace | Feedback) -> tuple[str, str, datetime]:
    at = event.at.astimezone(UTC)
    return (event.id, "", at) if isinstance(event, Trace) else (event.trace, f"by {event.by}", at)
