"""Traffic as it comes: a folder looked at again and again, each event once, in order of time as far as it is known."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from luthier.traffic.record import Feedback, Trace

LATE = timedelta(minutes=5)
"""A request is written when it is answered, under the time at which it came: so much later at most."""


class Following:
    """Reads what was not read yet."""

    def __init__(self, folder: Path, since: datetime) -> None:
        self._folder = folder
        self._since = since
        self._seen: dict[tuple[str, str, datetime], None] = {}

    def fresh(self, until: datetime) -> Iterator[Trace | Feedback]:
        """Everything before a time that was not given out yet."""
        if not self._folder.exists():
            return
        from luthier.traffic.stream import events

        for event in events(self._folder, self._since, until):
            name = _name(event)
            if name not in self._seen:
                self._seen[name] = None
                yield event
        self._since = max(self._since, until - LATE)
        self._seen = {name: None for name in self._seen if name[2] >= self._since}


def _name(event: Trace | Feedback) -> tuple[str, str, datetime]:
    at = event.at.astimezone(UTC)
    return (event.id, "", at) if isinstance(event, Trace) else (event.trace, f"by {event.by}", at)
