"""Tells trackers of every step of a training, and how it ended."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from luthier.core.errors import Interrupted
from luthier.core.step import Work
from luthier.tune.tracker import Ending, Tracked, Tracker, Writer

if TYPE_CHECKING:
    from luthier.tune.loop import Stepped

Plain = str | int | float | bool | None


class Watching:
    """Hears of every step; writers are begun at the first, when it is known where the training goes on."""

    def __init__(
        self, trackers: Sequence[Tracker], work: Work, settings: Mapping[str, Any], told: Callable[[Stepped], None]
    ) -> None:
        self._trackers, self._base = trackers, work.base
        self._name = f"{work.name}-{work.digest[:8]}"
        self._settings, self._told = dict(flat(settings)), told
        self._writers: list[Writer] = []
        self._last = time.monotonic()

    def __enter__(self) -> Watching:
        return self

    def __call__(self, stepped: Stepped) -> None:
        """Pass a step on."""
        self._told(stepped)
        if not self._trackers:
            return
        if not self._writers:
            tracked = Tracked(name=self._name, settings=self._settings, done=stepped.step - 1)
            self._writers = [tracker.begin(tracked, self._base) for tracker in self._trackers]
        now = time.monotonic()
        values = {**_numbers(stepped), "rows_per_s": stepped.rows / max(now - self._last, 1e-9)}
        for writer in self._writers:
            writer.step(stepped.step, values)
        self._last = time.monotonic()  # what trackers take is no time of the next step

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt | Interrupted)
        how: Ending = "finished" if kind is None else "stopped" if stopped else "failed"
        for writer in self._writers:
            writer.end(how)


def _numbers(stepped: Stepped) -> dict[str, float]:
    """What the log says of a step, as far as it is numbers."""
    told = json.loads(stepped.line())
    return {
        name: float(value)
        for name, value in told.items()
        if name != "step" and isinstance(value, int | float) and math.isfinite(value)
    }


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Plain]:
    """Nested settings by dotted name; a list stands as JSON."""
    found: dict[str, Plain] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = json.dumps(value) if isinstance(value, list) else value
    return found
