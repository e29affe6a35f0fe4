"""The step that makes a data set: read, clean, judge, split, with every row accounted for."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.core.messages import gettext_noop
from luthier.core.step import ArtifactSpec, PlanContext, Step, StepContext, StepCostEstimate
from luthier.data.engine.pipeline import PrepareOptions, prepare, with_split_group
from luthier.data.operator import Operator
from luthier.data.row import Row
from luthier.data.source import Source
from luthier.data.split import Split
from luthier.data.suggest.settings import estimate_source_bytes, predict_dataset_spec, sample_rows

BYTES_PER_S = 1_500_000
"""Measured on two cores of a common server with normalize, pii, exact and near duplicates."""
BASE_BYTES = 250 << 20
"""Memory of the process with its libraries; batches add little."""
BYTES_PER_TOKEN = 4
MANY_BYTES = 32 << 20
"""From here on, worker processes are worth their start."""
TELLS_S = 3.0
"""A making that took less tells of its start, not of its speed."""
LONG_S = 30.0
"""And where models take so long."""


class Prepare(Step):
    """Read rows, clean and judge them, split them; write examples, attributes, events and a summary.

    Every row that goes in comes out in a split, or dropped with a reason that `events.parquet` lists.
    """

    kind: Literal["prepare"] = "prepare"
    makes: ClassVar[str] = "dataset"

    source: Source
    """Where the rows come from, and what their columns mean."""
    ops: tuple[Operator, ...] = ()
    """What is done to them, in this order."""
    split: Split = Field(default_factory=Split)
    """How many rows are held out, and what stays together."""
    task: Literal["auto", "label", "text"] = "auto"
    """Whether answers are a few classes or free text; `auto` looks at them and says what it found."""
    min_classes: Annotated[int, Field(ge=1)] = 2
    """Fewest classes that rows of a task of classes must have: with one there is nothing to tell apart. 1 for rows that
    a step `mix` adds to others."""

    @model_validator(mode="after")
    def _group_is_known(self) -> Prepare:
        if self.split.group == "cluster" and not any("cluster" in operator.writes for operator in self.ops):
            what = "split.group is `cluster`, which near_dedup writes, or semantic_dedup"
            raise ValueError(f"{what}; add one of them to ops")
        if self.split.group not in (None, "cluster", self.source.group) and self.source.group:
            raise ValueError(f"split.group is {self.split.group!r} and source.group {self.source.group!r}; name one")
        return self

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Run the pipeline; returns memory, and the speed of all but models and pairs of rows, where it is that."""
        start = time.perf_counter()
        size = estimate_source_bytes(self.source, work.recipe_dir) or 0
        options = PrepareOptions(workers=self._workers(size), task=self.task, min_classes=self.min_classes)
        prepared = prepare(self.source, self.ops, self.split, work, options)
        seconds = time.perf_counter() - start
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        speed = {"rows_per_s": prepared.rows / seconds, "bytes_per_s": size / seconds}
        is_usual = prepared.is_anew and seconds >= TELLS_S
        is_usual = is_usual and not self._extra_s(prepared.rows, size, self._sample(work.recipe_dir))
        return {**(speed if is_usual else {}), "peak_bytes": peak}

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """From the file's size and the speed of the last time, or a common one; some of its rows are looked at."""
        outline = plan_context.outline or self.outline(plan_context)
        size = estimate_source_bytes(self.source, plan_context.recipe_dir)
        if size is None:
            return StepCostEstimate(peak_bytes=BASE_BYTES, how=gettext_noop("the data is not here yet"))
        measured = _measured(plan_context.history, "bytes_per_s")
        speed = measured or BYTES_PER_S
        megabytes, rate = f"{size / 1e6:.1f}", f"{speed / 1e6:.1f}"
        how = gettext_noop(f"{megabytes} MB at {rate} MB/s ({'as last time' if measured else 'typical'})")
        extra = self._extra_s(sum((outline.rows or {}).values()), size, self._sample(plan_context.recipe_dir))
        how += "".join(f", and {seconds:.0f} s for {what}" for what, seconds in extra)
        return StepCostEstimate(
            seconds=1 + size / speed + sum(seconds for _, seconds in extra),
            peak_bytes=BASE_BYTES + min(size, MANY_BYTES) * 4,
            tokens=size // BYTES_PER_TOKEN,
            how=how,
        )

    def _sample(self, recipe_dir: Path) -> list[Row]:
        """Some rows as they are read, as many as operators look at to say how long they take."""
        most = max((operator.sample_rows for operator in self.ops), default=0)
        return sample_rows(with_split_group(self.source, self.split), recipe_dir, most) if most else []

    def _extra_s(self, rows: int, size: int, sample: Sequence[Row]) -> list[tuple[str, float]]:
        """Seconds of operators that ask a model, or whose time grows faster than the rows, where it is one or more."""
        workers = self._workers(size)
        found = [(f"{operator.kind} over pairs of rows", operator.extra_s(rows, sample)) for operator in self.ops]
        found += [(f"the model of {operator.kind}", operator.model_s(size) / workers) for operator in self.ops]
        return [(what, seconds) for what, seconds in found if seconds >= 1]

    def _workers(self, size: int) -> int:
        """How many processes are worth their start."""
        if size < MANY_BYTES and sum(operator.model_s(size) for operator in self.ops) < LONG_S:
            return 1
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(cores, 8)

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """Rows by split and some of them, from those that are read in a moment, the file's size and the split."""
        artifact_spec = predict_dataset_spec(self.source, self.split, plan_context.recipe_dir)
        return artifact_spec if self.task == "auto" else replace(artifact_spec, task=self.task)


def _measured(history: Mapping[str, Any], name: str) -> float | None:
    """A measure of the last making, wherever the timing file keeps measures."""
    for table in (history, history.get("measures", {})):
        if isinstance(table, Mapping) and isinstance(table.get(name), (int, float)) and table[name] > 0:
            return float(table[name])
    return None
