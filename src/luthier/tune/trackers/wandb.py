"""Weights & Biases: offline runs."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.core.files import write_atomically
from luthier.tune.tracker import NewStepsWriter, RunStatus, TrackedTraining, Tracker, TrackerWriter

FLUSH_S = 0.1
"""Maximum seconds for which a step is in memory only."""


class WandB(Tracker):
    """An offline run under `wandb/`; `wandb sync runs/wandb/offline-run-*` uploads it when you want that."""

    kind: Literal["wandb"] = "wandb"
    package: ClassVar[str] = "wandb"

    project: str = Field(default="luthier", max_length=128, pattern=r"^[^/\\#?%:]+$")
    """The project of the run when it is uploaded."""

    def open(self, tracked: TrackedTraining, folder: Path) -> TrackerWriter:
        """Start an offline run; a resumed one is a second file of the same run, which uploading joins."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
        import wandb

        run = wandb.init(
            mode="offline",
            project=self.project,
            name=tracked.name,
            id=tracked.name,
            dir=str(folder),
            config=dict(tracked.settings),
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                quiet=True,
                silent=True,
                disable_code=True,
                disable_git=True,
                x_disable_stats=True,
                x_disable_meta=True,
                x_save_requirements=False,
                **_flushing(wandb.Settings.model_fields),
            ),
        )
        mark = folder / "wandb" / f"{tracked.name}.step"
        return NewStepsWriter(_Run(run, mark), int(mark.read_text()) if mark.is_file() else 0)


def _flushing(known: Container[str]) -> dict[str, float]:
    """Flush steps to disk at once, where W&B would buffer them for 15 seconds, which a kill loses."""
    name = "x_transaction_log_flush_interval"  # which early versions have not
    return {name: FLUSH_S} if name in known else {}


class _Run(TrackerWriter):
    def __init__(self, run: Any, mark: Path) -> None:
        self._run, self._mark = run, mark

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step, commit=True)  # else it waits for the next one
        write_atomically(self._mark, str(step).encode())  # an offline file cannot be asked for its last step

    def end(self, status: RunStatus) -> None:
        self._run.finish(exit_code=0 if status == "finished" else 1)
