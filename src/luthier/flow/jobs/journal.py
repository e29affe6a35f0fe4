"""A job's events: what was decided about it, from its own journal, and what its runs said, from theirs."""

from __future__ import annotations

import heapq
import json
import math
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from luthier.core.events import Event
from luthier.core.ledger import Ledger
from luthier.core.render import ToFile
from luthier.flow.jobs.records import Job
from luthier.flow.jobs.results import named
from luthier.flow.jobs.writing import TUNE
from luthier.serve.refusal import Refusal

OWN = "journal.jsonl"
Level = Literal["info", "warn", "error"]
_LEVELS: Mapping[str, Level] = {"warning": "warn", "failed": "error"}
_WORDS = {"start": "begun", "done": "done", "cached": "was made already", "failed": "failed"}


class Said(NamedTuple):
    """One event."""

    id: str
    at: float
    level: Level
    message: str
    metrics: Mapping[str, Any] | None = None
    """Numbers of a training step."""


def tell(folder: Path, text: str, kind: Literal["note", "warning", "failed"] = "note") -> None:
    """Write down what was decided about a job."""
    with ToFile(folder / OWN) as journal:
        journal(Event(kind=kind, text=text))


class Journal:
    """The events of one job."""

    def __init__(self, ledger: Ledger, root: Path, folder: Path, job: Job) -> None:
        self._ledger, self._root, self._folder, self._job = ledger, root, folder, job

    def latest(self, limit: int, after: str | None = None) -> tuple[list[Said], bool]:
        """Events, the latest first, those older than `after`; and whether there are more. Few are held at once."""
        kept: deque[Said] = deque(maxlen=limit + 1)
        for said in self._all():
            if said.id == after:
                break
            kept.append(said)
        else:
            if after is not None:
                raise Refusal(f"there is no event {after[:100]!r}", param="after")
        return list(reversed(kept))[:limit], len(kept) > limit

    def estimated_finish(self) -> int | None:
        """When the training will be done, by the pace of its last run."""
        first: Said | None = None
        last: Said | None = None
        for said in self._all():
            if said.metrics is not None:
                same = first is not None and _run(first) == _run(said)
                first, last = first if same else said, said
        if first is None or last is None or first.metrics is None or last.metrics is None:
            return None
        steps = last.metrics["step"] - first.metrics["step"]
        left = last.metrics["total_steps"] - last.metrics["step"]
        return int(last.at + left * (last.at - first.at) / steps) if steps > 0 else None

    def _all(self) -> Iterator[Said]:
        """All events, the earliest first."""
        runs = self._ledger.runs_of(self._job.id, str(self._folder.absolute()))
        files = {"job": self._folder / OWN, **{run.id: self._root / "runs" / f"{run.id}.jsonl" for run in runs}}
        told = [self._of(name, path) for name, path in files.items()]
        return heapq.merge(*told, key=lambda said: said.at)

    def _of(self, name: str, path: Path) -> Iterator[Said]:
        if not path.is_file():
            return
        with path.open("rb") as file:
            for number, line in enumerate(file):
                try:
                    told = json.loads(line)
                except ValueError:
                    continue  # the end of a journal that is being written
                if name != "job" and told["kind"] == "failed" and not told.get("step"):
                    continue  # the job's own journal says why it failed, without the places of files
                if (said := self._said(f"ftevent-{name}-{number}", told)) is not None:
                    yield said

    def _said(self, name: str, told: Mapping[str, Any]) -> Said | None:
        kind, step, at, text = told["kind"], told.get("step", ""), float(told["at"]), told.get("text", "")
        level: Level = _LEVELS.get(kind, "info")
        if kind == "progress":
            return self._metrics(name, at, told) if step == TUNE and "step" in told.get("measures", {}) else None
        if not step:
            return Said(name, at, level, text) if kind in ("note", "warning", "failed") else None
        words = text if kind in ("note", "warning", "wait") else _WORDS.get(kind, kind)
        return Said(name, at, level, f"{step}: {words}")

    def _metrics(self, name: str, at: float, told: Mapping[str, Any]) -> Said:
        measures = named(told["measures"])
        step, loss = int(measures.pop("step")), measures.pop("train_loss", None)
        total = math.ceil(told.get("total", 0) / int(self._job.hyperparameters["batch_size"]))
        metrics: dict[str, Any] = {"step": step, "total_steps": total, "train_loss": loss}
        loss_told = f"{loss:.2f}" if isinstance(loss, (int, float)) else loss
        return Said(name, at, "info", f"Step {step}/{total}: training loss={loss_told}", {**metrics, **measures})


def _run(said: Said) -> str:
    return said.id.rpartition("-")[0]
