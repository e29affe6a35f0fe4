"""Read the log of a run in progress: its steps, their progress and curves."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from luthier.core.events import RunEvent, ThroughputMeter, take_evenly_spaced
from luthier.core.render import format_elapsed_time, format_event, format_measures

StepState = Literal["running", "done", "cached", "failed"]
_LINES = 400
"""Lines that are kept for showing."""
_POINTS = 2000
"""Points of a curve that are kept; half of them go when there are more."""
_SHOWN = 240
"""Points of a curve that are drawn, besides its newest."""
_CURVES = ("train_loss", "loss", "eval_loss", "validation_loss", "learning_rate", "reward", "rows/s", "tokens/s")
"""Measures that are shown first, where a step has them."""
_COUNTERS = frozenset({"step", "epoch", "pass"})
"""Measures that only count."""


class LogLine(NamedTuple):
    """One line of a log."""

    at: float
    level: Literal["info", "warning", "failed"]
    text: str


@dataclass(kw_only=True)
class StepProgress:
    """How far a step is."""

    name: str
    kind: str = ""
    state: StepState = "running"
    done: float = 0
    total: float = 0
    unit: str = ""
    started_at: float = 0
    seconds: float | None = None
    measures: dict[str, float | str] = field(default_factory=dict)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    expected: str = ""
    """What it was expected to take, in words."""
    left: str = ""
    """How long it will still take at its pace."""

    @property
    def share(self) -> float | None:
        """How much of it is done, 0 to 1; None while that is not known."""
        if self.state in ("done", "cached"):
            return 1.0
        return min(1.0, self.done / self.total) if self.total else None

    @property
    def measures_line(self) -> str:
        """Its measures in a line."""
        return format_measures(self.measures)

    @property
    def took(self) -> str:
        """How long it took."""
        return format_elapsed_time(self.seconds) if self.seconds is not None else ""

    @property
    def shown_curves(self) -> dict[str, list[tuple[float, float]]]:
        """Its curves of more than one point, those that people look at first before the others: at most four, with no
        more points than can be told apart on a page."""
        names = [name for name, points in self.curves.items() if len(points) > 1 and name not in _COUNTERS]
        names.sort(key=lambda name: (_CURVES.index(name) if name in _CURVES else len(_CURVES), name))
        shown = {name: self.curves[name] for name in names[:4]}
        return {name: [*take_evenly_spaced(points[:-1], _SHOWN), points[-1]] for name, points in shown.items()}


class RunLog:
    """The log of one run; `advance` reads what was written since the last time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._meters: dict[str, ThroughputMeter] = {}
        self.steps: dict[str, StepProgress] = {}
        self.lines: deque[LogLine] = deque(maxlen=_LINES)

    def advance(self) -> bool:
        """Read on; returns whether there was anything new."""
        if not self._path.is_file():
            return False
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            self._take(json.loads(line))
        return bool(whole)

    def _take(self, record: dict[str, Any]) -> None:
        record.setdefault("kind", "note")
        event = RunEvent(**record)
        if event.step:
            self._move(event)
        if event.kind != "progress" and (text := format_event(event)):
            level: Literal["info", "warning", "failed"] = "info"
            if event.kind in ("warning", "failed"):
                level = "warning" if event.kind == "warning" else "failed"
            self.lines.append(LogLine(event.at, level, text))

    def _move(self, event: RunEvent) -> None:
        """Take an event of a step over into its progress."""
        step = self.steps.setdefault(event.step, StepProgress(name=event.step, started_at=event.at))
        if event.kind == "start":
            step.kind, step.started_at = event.text or event.step, event.at
        elif event.kind == "progress":
            self._progress(step, event)
        elif event.kind == "note" and event.text.startswith("will take "):
            step.expected = event.text.removeprefix("will take ")
        elif event.kind in ("done", "cached", "failed"):
            step.state = "done" if event.kind == "done" else "cached" if event.kind == "cached" else "failed"
            step.kind = step.kind or event.text
            if event.kind == "done" and step.done < step.total:  # counted last before its end: it would seem unfinished
                step.done = step.total = 0
            step.seconds, step.left = event.at - step.started_at, ""
            if "." in event.step:  # a child of a step that drives others, of which there may be hundreds
                del self.steps[event.step]

    def _progress(self, step: StepProgress, event: RunEvent) -> None:
        meter = self._meters.setdefault(step.name, ThroughputMeter())
        meter.mark(event.at, event.done)
        left = meter.left(event.total) if event.total else None
        step.done, step.total, step.unit = event.done, event.total, event.unit
        step.measures, step.left = dict(event.measures), format_elapsed_time(left) if left else ""
        for name, value in event.measures.items():
            if isinstance(value, (int, float)):
                points = step.curves.setdefault(name, [])
                points.append((event.done, float(value)))
                if len(points) > _POINTS:
                    del points[1::2]
