"""Experiment trackers such as TensorBoard and MLflow receive the metrics of a training; off unless a recipe names one.

A tracker affects neither the artifact's name nor its bytes, and sends nothing over a network.
"""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from luthier.core.component import Component
from luthier.core.errors import Interrupted
from luthier.core.files import PathText, resolve_path, translate_write_errors
from luthier.core.step import StepContext
from luthier.core.system.packages import require

if TYPE_CHECKING:
    from luthier.tune.training.trainer import StepMetrics

RunStatus = Literal["finished", "failed", "stopped"]


@dataclass(frozen=True, kw_only=True)
class TrackedTraining:
    """The name, settings and progress of a training, as trackers get them."""

    name: str
    """Identifies the run: unchanged when training resumes, different for other settings."""
    settings: Mapping[str, str | int | float | bool | None]
    """The settings by dotted name."""
    done: int
    """Number of steps done before; the next one reported has the following number."""


class TrackerWriter(ABC):
    """Writes the metrics of one training to a tracker."""

    @abstractmethod
    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Record the metrics of a step (from 1); steps come in order."""

    @abstractmethod
    def end(self, status: RunStatus) -> None:
        """Close the run; after an interruption the training may resume later under the same name."""


class Tracker(Component):
    """The base class of experiment trackers."""

    role: ClassVar[str] = "tracker"
    home: ClassVar[str] = "luthier.tune.trackers"
    package: ClassVar[str]
    """The library that it needs, by its import name."""

    folder: PathText = "runs"
    """Output folder: a path relative to the recipe, or an absolute one."""

    def check_installed(self, recipe_dir: Path) -> None:
        """Raise `MissingExtra` when its library is not installed."""
        require(self.package, self.kind, f"the tracker {self.kind}", otherwise="leave the tracker out")

    def begin(self, tracked: TrackedTraining, recipe_dir: Path) -> TrackerWriter:
        """Start a run, or resume the earlier one of the same name; paths are relative to `recipe_dir`."""
        self.check_installed(recipe_dir)
        folder = resolve_path(self.folder, recipe_dir).absolute()
        with translate_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            return self.open(tracked, folder)

    @abstractmethod
    def open(self, tracked: TrackedTraining, folder: Path) -> TrackerWriter:
        """Start the run in an existing folder."""


class NewStepsWriter(TrackerWriter):
    """Passes on only the steps that the tracker does not hold yet, when a training resumes."""

    def __init__(self, inner: TrackerWriter, last: int) -> None:
        self._inner, self._last = inner, last

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Pass a step on when it is new."""
        if step > self._last:
            self._inner.step(step, values)

    def end(self, status: RunStatus) -> None:
        """Pass the end on."""
        self._inner.end(status)


Plain = str | int | float | bool | None


class TrackerCallback:
    """Passes the metrics of every training step to the trackers, which start at the first step."""

    def __init__(
        self,
        trackers: Sequence[Tracker],
        work: StepContext,
        settings: Mapping[str, Any],
        on_log: Callable[[StepMetrics], None],
    ) -> None:
        self._trackers, self._base = trackers, work.recipe_dir
        self._name = f"{work.name}-{work.digest[:8]}"
        self._settings, self._told = dict(flatten_tracked_settings(settings)), on_log
        self._writers: list[TrackerWriter] = []
        self._last = time.monotonic()

    def __enter__(self) -> TrackerCallback:
        return self

    def __call__(self, stepped: StepMetrics) -> None:
        """Pass a step on."""
        self._told(stepped)
        if not self._trackers:
            return
        if not self._writers:
            tracked = TrackedTraining(name=self._name, settings=self._settings, done=stepped.step - 1)
            self._writers = [tracker.begin(tracked, self._base) for tracker in self._trackers]
        now = time.monotonic()
        values = {**_build_log_record(stepped), "rows_per_s": stepped.rows / max(now - self._last, 1e-9)}
        for writer in self._writers:
            writer.step(stepped.step, values)
        self._last = time.monotonic()  # what trackers take is no time of the next step

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt | Interrupted)
        status: RunStatus = "finished" if kind is None else "stopped" if stopped else "failed"
        for writer in self._writers:
            writer.end(status)


def _build_log_record(stepped: StepMetrics) -> dict[str, float]:
    """Return the numeric values of a step's log record."""
    record = json.loads(stepped.line())
    return {
        name: float(value)
        for name, value in record.items()
        if name != "step" and isinstance(value, int | float) and math.isfinite(value)
    }


def flatten_tracked_settings(settings: Mapping[str, Any], before: str = "") -> dict[str, Plain]:
    """Return nested settings by dotted name; a list becomes JSON."""
    flat: dict[str, Plain] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten_tracked_settings(value, f"{before}{name}.")
        else:
            flat[f"{before}{name}"] = json.dumps(value) if isinstance(value, list) else value
    return flat
