"""How fast work goes and how long it still takes, from marks of (time, done): plain arithmetic, no clock."""

from __future__ import annotations

from collections import deque

_WINDOW_S = 30.0
"""The rate is that of the last half minute: old enough to be steady, young enough to follow a change."""


class Pace:
    """The rate of some work over the last while."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, float]] = deque()

    def mark(self, at: float, done: float) -> None:
        """Note that at a moment (in seconds) so much was done; work that starts again from less starts anew."""
        if self._marks and (done < self._marks[-1][1] or at < self._marks[-1][0]):
            self._marks.clear()
        self._marks.append((at, done))
        while len(self._marks) > 2 and at - self._marks[1][0] >= _WINDOW_S:
            self._marks.popleft()

    @property
    def rate(self) -> float:
        """Units per second; 0 while it cannot be known."""
        if len(self._marks) < 2:
            return 0.0
        (start, before), (end, after) = self._marks[0], self._marks[-1]
        return (after - before) / (end - start) if end > start else 0.0

    def left(self, total: float) -> float | None:
        """Seconds until `total` is done at this rate; None while it cannot be known."""
        if not self.rate:
            return None
        return max(0.0, total - self._marks[-1][1]) / self.rate
