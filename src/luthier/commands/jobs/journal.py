"""A job's events: its own journal, and its runs' logs."""

from __future__ import annotations

import heapq
import json
import math
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from luthier.commands.jobs.records import FineTuningJob
from luthier.commands.jobs.results import to_openai_metrics
from luthier.commands.jobs.writing import TUNE
from luthier.core.db import Ledger
from luthier.core.events import RunEvent
from luthier.core.render import LogFileRenderer
from luthier.serve.openai.protocol import APIError

OWN = "journal.jsonl"
Level = Literal["info", "warn", "error"]
_LEVELS: Mapping[str, Level] = {"warning": "warn", "failed": "error"}
_WORDS = {"start": "begun", "done": "done", "cached": "was made already", "failed": "failed"}


class JobEvent(NamedTuple):
    """One event."""

    id: str
    at: float
    level: Level
    message: str
    metrics: Mapping[str, Any] | None = None
    """Numbers of a training step."""


def append_job_event(folder: Path, text: str, kind: Literal["note", "warning", "failed"] = "note") -> None:
    """Append an event to a job's log."""
    with LogFileRenderer(folder / OWN) as journal:
        journal(RunEvent(kind=kind, text=text))


class Journal:
    """The events of one job."""

    def __init__(self, ledger: Ledger, root: Path, folder: Path, job: FineTuningJob) -> None:
        self._ledger, self._root, self._folder, self._job = ledger, root, folder, job

    def latest(self, limit: int, after: str | None = None) -> tuple[list[JobEvent], bool]:
        """Events, the latest first, those older than `after`; and whether there are more. Few are held at once."""
        kept: deque[JobEvent] = deque(maxlen=limit + 1)
        for event in self._all():
            if event.id == after:
                break
            kept.append(event)
        else:
            if after is not None:
                raise APIError(f"there is no event {after[:100]!r}", param="after")
        return list(reversed(kept))[:limit], len(kept) > limit

    def estimated_finish(self) -> int | None:
        """Return the estimated end of training, by the speed of its last run."""
        first: JobEvent | None = None
        last: JobEvent | None = None
        for event in self._all():
            if event.metrics is not None:
                same = first is not None and _run(first) == _run(event)
                first, last = first if same else event, event
        if first is None or last is None or first.metrics is None or last.metrics is None:
            return None
        steps = last.metrics["step"] - first.metrics["step"]
        left = last.metrics["total_steps"] - last.metrics["step"]
        return int(last.at + left * (last.at - first.at) / steps) if steps > 0 else None

    def _all(self) -> Iterator[JobEvent]:
        """All events, the earliest first."""
        runs = self._ledger.runs_of(self._job.id, str(self._folder.absolute()))
        files = {"job": self._folder / OWN, **{run.id: self._root / "runs" / f"{run.id}.jsonl" for run in runs}}
        streams = [self._of(name, path) for name, path in files.items()]
        return heapq.merge(*streams, key=lambda event: event.at)

    def _of(self, name: str, path: Path) -> Iterator[JobEvent]:
        if not path.is_file():
            return
        with path.open("rb") as file:
            for number, line in enumerate(file):
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # the end of a journal that is being written
                if name != "job" and record["kind"] == "failed" and not record.get("step"):
                    continue  # the job's own journal says why it failed, without the places of files
                if (event := self._said(f"ftevent-{name}-{number}", record)) is not None:
                    yield event

    def _said(self, name: str, record: Mapping[str, Any]) -> JobEvent | None:
        kind, step, at, text = record["kind"], record.get("step", ""), float(record["at"]), record.get("text", "")
        level: Level = _LEVELS.get(kind, "info")
        if kind == "progress":
            return self._metrics(name, at, record) if step == TUNE and "step" in record.get("measures", {}) else None
        if not step:
            return JobEvent(name, at, level, text) if kind in ("note", "warning", "failed") else None
        words = text if kind in ("note", "warning", "wait") else _WORDS.get(kind, kind)
        return JobEvent(name, at, level, f"{step}: {words}")

    def _metrics(self, name: str, at: float, record: Mapping[str, Any]) -> JobEvent:
        measures = to_openai_metrics(record["measures"])
        step, loss = int(measures.pop("step")), measures.pop("train_loss", None)
        total = math.ceil(record.get("total", 0) / int(self._job.hyperparameters["batch_size"]))
        metrics: dict[str, Any] = {"step": step, "total_steps": total, "train_loss": loss}
        loss_told = f"{loss:.2f}" if isinstance(loss, (int, float)) else loss
        return JobEvent(name, at, "info", f"Step {step}/{total}: training loss={loss_told}", {**metrics, **measures})


def _run(event: JobEvent) -> str:
    return event.id.rpartition("-")[0]
