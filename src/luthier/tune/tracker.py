"""A tracker writes the numbers of a training where other people's tools show them; off unless a recipe names one.

It stands beside the artifact: it decides neither its name nor its bytes, and nothing of it goes over a network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from luthier.core.component import Component
from luthier.core.files import PathText, resolve_path, translate_write_errors
from luthier.core.system.packages import require

RunStatus = Literal["finished", "failed", "stopped"]


@dataclass(frozen=True, kw_only=True)
class TrackedTraining:
    """The name, settings and progress of a training, as trackers get them."""

    name: str
    """Identifies the run: unchanged when training resumes, different for other settings."""
    settings: Mapping[str, str | int | float | bool | None]
    """The settings by dotted name."""
    done: int
    """Steps that were done before: the next one told has the number after."""


class TrackerWriter(ABC):
    """Writes the metrics of one training to a tracker."""

    @abstractmethod
    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a step (from 1); steps come in order."""

    @abstractmethod
    def end(self, how: RunStatus) -> None:
        """Close what was written; after an interruption the training may go on later under the same name."""


class Tracker(Component):
    """The base class of experiment trackers."""

    role: ClassVar[str] = "tracker"
    home: ClassVar[str] = "luthier.tune.trackers"
    package: ClassVar[str]
    """The library that it needs, as Python imports it."""

    folder: PathText = "runs"
    """Where it writes: a path beside the recipe, or an absolute one."""

    def check_installed(self, recipe_dir: Path) -> None:
        """`MissingExtra` when its library is not installed."""
        require(self.package, self.kind, f"the tracker {self.kind}", otherwise="leave the tracker out")

    def begin(self, tracked: TrackedTraining, recipe_dir: Path) -> TrackerWriter:
        """Start to write, or go on where an earlier writing of the same name ended; paths start at `recipe_dir`."""
        self.check_installed(recipe_dir)
        folder = resolve_path(self.folder, recipe_dir).absolute()
        with translate_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            return self.open(tracked, folder)

    @abstractmethod
    def open(self, tracked: TrackedTraining, folder: Path) -> TrackerWriter:
        """Start the run, in a folder that exists."""


class NewStepsWriter(TrackerWriter):
    """Passes on only the steps that the tracker does not hold yet, when a training resumes."""

    def __init__(self, inner: TrackerWriter, last: int) -> None:
        self._inner, self._last = inner, last

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Pass a step on when it is new."""
        if step > self._last:
            self._inner.step(step, values)

    def end(self, how: RunStatus) -> None:
        """Pass the end on."""
        self._inner.end(how)
