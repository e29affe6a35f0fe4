"""TensorBoard: event files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.tune.tracker import RunStatus, TrackedTraining, Tracker, TrackerWriter

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Tracker):
    """Event files in a folder for each training; `tensorboard --logdir runs` shows them."""

    kind: Literal["tensorboard"] = "tensorboard"
    package: ClassVar[str] = "tensorboard"

    def open(self, tracked: TrackedTraining, folder: Path) -> TrackerWriter:
        """Start a new event file, which removes later steps from earlier ones."""
        from torch.utils.tensorboard import SummaryWriter

        log_dir = folder / tracked.name
        known = log_dir.exists()
        writer = SummaryWriter(str(log_dir), purge_step=tracked.done + 1 if known else None)
        if not known:
            settings_json = json.dumps(tracked.settings, indent=1)
            writer.add_text("settings", "\n".join(f"    {line}" for line in settings_json.splitlines()))
        return _Events(writer)


class _Events(TrackerWriter):
    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer

    def step(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a killed process leaves every step

    def end(self, status: RunStatus) -> None:
        self._writer.add_text("ended", status)
        self._writer.close()
