"""Trackio: an SQLite database."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.tune.tracker import NewStepsWriter, RunStatus, TrackedTraining, Tracker, TrackerWriter


class Trackio(Tracker):
    """A run in a project's database; `TRACKIO_DIR=runs/trackio trackio show` shows it."""

    kind: Literal["trackio"] = "trackio"
    package: ClassVar[str] = "trackio"

    project: str = Field(default="luthier", min_length=1, pattern=r"^[\w.-]+$")
    """The project of the run."""

    def open(self, tracked: TrackedTraining, folder: Path) -> TrackerWriter:
        """Start a new run, or open the one of this name."""
        storage = _storage(folder / "trackio")
        last = storage.get_last_step(self.project, run=tracked.name)
        return NewStepsWriter(_Run(storage, self.project, tracked), last or 0)


def _storage(folder: Path) -> Any:
    """Return trackio's storage, without its server, threads and prints; it keeps its folder in module variables."""
    os.environ["TRACKIO_DIR"] = str(folder)
    from trackio import sqlite_storage, utils

    folder.mkdir(parents=True, exist_ok=True)
    utils.TRACKIO_DIR = sqlite_storage.TRACKIO_DIR = folder
    return sqlite_storage.SQLiteStorage


class _Run(TrackerWriter):
    def __init__(self, storage: Any, project: str, tracked: TrackedTraining) -> None:
        self._storage, self._project, self._tracked = storage, project, tracked

    def step(self, step: int, values: Mapping[str, float]) -> None:
        name, settings = self._tracked.name, dict(self._tracked.settings)
        self._storage.bulk_log(self._project, name, [dict(values)], steps=[step], config=settings)

    def end(self, status: RunStatus) -> None:
        """Record the end as an alert: trackio has no state of a run, and nothing is open between two steps."""
        level = "info" if status == "finished" else "warn"
        self._storage.bulk_alert(self._project, self._tracked.name, [status], [None], [level], [None])
