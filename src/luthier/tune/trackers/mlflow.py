"""MLflow: an SQLite database."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.core.errors import InputError, SourceLocation
from luthier.tune.tracker import NewStepsWriter, RunStatus, TrackedTraining, Tracker, TrackerWriter

if TYPE_CHECKING:
    from mlflow import MlflowClient

MOST_PARAMETERS = 100
"""Maximum parameters that MLflow takes at once."""
_MEANS_MORE = re.compile(r"\?|%[0-9A-Fa-f]{2}")
_STATUS: dict[RunStatus, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class MLflow(Tracker):
    """A run in the database `mlflow.db`; `mlflow ui --backend-store-uri sqlite:///runs/mlflow.db` shows it."""

    kind: Literal["mlflow"] = "mlflow"
    package: ClassVar[str] = "mlflow"

    experiment: str = Field(default="luthier", min_length=1)
    """The experiment of the run."""

    def open(self, tracked: TrackedTraining, folder: Path) -> TrackerWriter:
        """Start a new run, or open the one of this name."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # both are read when mlflow is imported
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        from filelock import FileLock

        _check_place(folder)
        with FileLock(folder / "mlflow.lock"):  # MLflow makes its tables unguarded: two runs at once made them twice
            return self._start_run(tracked, folder)

    def _start_run(self, tracked: TrackedTraining, folder: Path) -> TrackerWriter:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
        existing = client.get_experiment_by_name(self.experiment)
        artifact_uri = (folder / "mlflow").as_uri()
        experiment = existing.experiment_id if existing else client.create_experiment(self.experiment, artifact_uri)
        query = f"attributes.run_name = '{tracked.name}'"
        for run in client.search_runs([experiment], query, max_results=1):
            client.update_run(run.info.run_id, status="RUNNING")
            return NewStepsWriter(_Run(client, run.info.run_id), int(run.data.metrics.get("step", 0)))
        run = client.create_run(experiment, run_name=tracked.name)
        _write_settings(client, run.info.run_id, tracked)
        return _Run(client, run.info.run_id)


def _check_place(folder: Path) -> None:
    """Refuse a folder whose name has characters with a meaning in MLflow's database URI."""
    if match := _MEANS_MORE.search(str(folder)):
        what = f"MLflow cannot keep a database in a folder with {match[0]!r} in its name: {folder}"
        raise InputError(what, where=SourceLocation(field="report_to"), hint="give the tracker another `folder`")


def _write_settings(client: MlflowClient, run_id: str, tracked: TrackedTraining) -> None:
    from mlflow.entities import Param

    params = [Param(name, str(value)) for name, value in tracked.settings.items()]
    for begin in range(0, len(params), MOST_PARAMETERS):
        client.log_batch(run_id, params=params[begin : begin + MOST_PARAMETERS])


class _Run(TrackerWriter):
    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self._id = client, run_id

    def step(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in {**values, "step": step}.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def end(self, status: RunStatus) -> None:
        self._client.set_terminated(self._id, _STATUS[status])
