"""Windows of rows with bounded memory: the last seconds, or the last events.

A time window is kept in parts. A part with too many rows drops those with a high hash, and keeps their number; a window
reads all its parts at the sampling rate of the fullest one. So the rows are a uniform sample, determined by the ids
alone: a replay has the same ones.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Protocol

import xxhash

from luthier.core.expressions import Window
from luthier.monitor.signal import SignalRow

PARTS = 60
"""A window of time moves on by a sixtieth of its length at once, and by no less than a second."""
ROWS_OF_PART = 400
_WHOLE = float(1 << 64)


def hash_text_key(text: str) -> int:
    """64 bits that a text decides."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def hash_to_unit_interval(text: str) -> float:
    """A number from [0, 1) that a text decides, and nothing else."""
    return hash_text_key(text) / _WHOLE


def hash_to_unit_intervals(text: str, count: int) -> list[float]:
    """Several such numbers."""
    return [hash_to_unit_interval(f"{number} {text}") for number in range(count)]


class RowWindow(Protocol):
    """A window's rows."""

    def add(self, at: float, row: SignalRow) -> None:
        """Take a row that came at a time (seconds since 1970)."""
        ...

    def rows(self, now: float) -> list[SignalRow]:
        """The rows at a time, in the order in which they came."""
        ...

    def events(self, now: float) -> int:
        """Return the number of events, including those outside the sample."""
        ...

    def version(self, now: float) -> tuple[int, ...]:
        """Changes whenever the rows may have changed."""
        ...


def build_window(spec: Window) -> RowWindow:
    """The window that a rule names."""
    return CountWindow(spec.events) if spec.events else TimeWindow(spec.seconds)


class CountWindow:
    """The last events; newer feedback of a person on an answer replaces the older."""

    def __init__(self, events: int) -> None:
        self._events = events
        self._rows: OrderedDict[int, SignalRow] = OrderedDict()
        self._added = 0

    def add(self, at: float, row: SignalRow) -> None:
        self._added += 1
        self._rows.pop(row.key, None)
        self._rows[row.key] = row
        if len(self._rows) > self._events:
            self._rows.popitem(last=False)

    def rows(self, now: float) -> list[SignalRow]:
        return list(self._rows.values())

    def events(self, now: float) -> int:
        return len(self._rows)

    def version(self, now: float) -> tuple[int, ...]:
        return (self._added,)


class _Part:
    """Rows of a stretch of time: an even sample of them, and how many there were."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.came = 0
        self.below = 1 << 64
        """Rows whose key is below are here."""
        self.kept: dict[int, SignalRow] = {}

    def add(self, row: SignalRow) -> None:
        self.came += row.key not in self.kept
        if _mixed(row.key) >= self.below:
            return
        self.kept[row.key] = row
        while len(self.kept) > ROWS_OF_PART:
            self.below >>= 1
            self.kept = {key: signal_row for key, signal_row in self.kept.items() if _mixed(key) < self.below}


def _mixed(key: int) -> int:
    """Another 64 bits of a key, so that a sample here is not the sample that a signal drew by the same id."""
    return xxhash.xxh3_64_intdigest(key.to_bytes(8, "little"), seed=1)


class TimeWindow:
    """The rows of the last seconds."""

    def __init__(self, seconds: int) -> None:
        self._step = max(1.0, seconds / PARTS)
        self._count = max(1, round(seconds / self._step))
        self._parts: deque[_Part] = deque()

    def add(self, at: float, row: SignalRow) -> None:
        number = int(at // self._step)
        index = len(self._parts)
        while index and self._parts[index - 1].number > number:
            index -= 1  # a row that comes late goes where it belongs
        if not index or self._parts[index - 1].number < number:
            self._parts.insert(index, _Part(number))
            index += 1
        self._parts[index - 1].add(row)

    def _current(self, now: float) -> list[_Part]:
        """The parts that are in the window; those before are forgotten."""
        last = int(now // self._step)
        while self._parts and self._parts[0].number < last - self._count:
            self._parts.popleft()
        return [part for part in self._parts if part.number <= last]

    def rows(self, now: float) -> list[SignalRow]:
        parts = self._current(now)
        below = min((part.below for part in parts), default=0)
        return [row for part in parts for key, row in part.kept.items() if _mixed(key) < below]

    def events(self, now: float) -> int:
        return sum(part.came for part in self._current(now))

    def version(self, now: float) -> tuple[int, ...]:
        parts = self._current(now)
        return (parts[0].number if parts else 0, len(parts), sum(part.came for part in parts))
