"""The step that chooses what people should label next."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.artifacts.dataset import DatasetSummary, dataset_spec_of, has_split, list_splits
from luthier.artifacts.findings import read_findings
from luthier.core.errors import DataError, RecipeError, SourceLocation
from luthier.core.events import format_rows_affected
from luthier.core.step import ArtifactSpec, DataRef, FindingsRef, PlanContext, Step, StepContext, StepCostEstimate
from luthier.data.annotation.annotations import PROPOSAL, judgments_of
from luthier.data.engine.cache import DerivedDatasetWriter, prompt_or_answer_of, read_rows
from luthier.data.row import Row
from luthier.data.selector import LabelingPool, SelectionCandidate, Selector
from luthier.data.selectors.uncertainty import Mmr, Uncertainty
from luthier.data.steps.label import estimate_cost_by_rows

SELECTED = "selected"
"""The column of `meta` with a chosen row's rank and score."""
BATCH_GAIN = "curve.batch_gain"
"""What the step `curve` expects of a further batch of rows."""
ROWS_PER_S = 5_000


class SampleForLabeling(Step):
    """Choose the rows that people should label next, in the order in which they should be asked about.

    Makes a data set of the chosen rows, for `luthier export … --format label-studio` and the like; `meta.selected` has
    `rank` and `score`. Rows that people have judged are not chosen again, and what resembles them is worth less.
    """

    kind: Literal["sample_for_labeling"] = "sample_for_labeling"
    makes: ClassVar[str] = "dataset"

    data: DataRef
    """The step that made the data set; where rows are chosen by uncertainty, a step `prelabel`."""
    count: int = Field(default=100, ge=1)
    """How many rows are chosen."""
    by: Selector = Mmr()
    """What makes a row worth labelling."""
    split: Literal["train", "validation", "test"] = "train"
    """The split from which rows are chosen; all others are left out."""

    curve: FindingsRef = None
    """The step `curve` that foretells what a further batch of rows brings."""
    min_gain: float | None = Field(default=None, gt=0)
    """No row is chosen any more where the curve expects less of a further batch (its `batch`), in its metric's own
    measure: 0.005 is half a point of accuracy."""

    @model_validator(mode="after")
    def _stops_by_a_curve(self) -> Self:
        if (self.curve is None) != (self.min_gain is None):
            raise ValueError(
                "`curve` and `min_gain` go together: what foretells the gain, and how little is too little"
            )
        return self

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Read, choose, and write the chosen rows."""
        started = time.perf_counter()
        data = work.inputs["data"]
        dataset_summary = DatasetSummary.read(data)
        if not has_split(data, self.split):
            raise DataError(f"the data set has no split {self.split!r}", where=SourceLocation(field="split"))
        pool = self._pool(work)
        if not pool.candidates:
            raise DataError("every row is judged already", where=SourceLocation(field="split"))
        why = self._why_enough(work)
        chosen = [] if why else self.by.choose(pool, self.count)
        marks = {
            pool.candidates[candidate.candidate_index].id: {"rank": rank, "score": candidate.score}
            for rank, candidate in enumerate(chosen, start=1)
        }
        self._write(work, marks, why or "not selected")
        if why:
            work.events.warning(f"no row is chosen: {why}")
            return {}
        if pool.silent and isinstance(self.by, (Mmr, Uncertainty)):
            some = format_rows_affected(len(pool.silent), len(pool.candidates), "has", "have")
            work.events.note(f"{some} no probabilities of labels: of these, the model is taken to be least sure")
        work.events.note(f"{len(marks)} of {len(pool.candidates)} rows are chosen by {self.by.kind}")
        return {"rows_per_s": dataset_summary.rows[self.split] / max(time.perf_counter() - started, 1e-9)}

    def _pool(self, work: StepContext) -> LabelingPool:
        """Texts and probabilities of all rows that could be chosen; whole rows stay on the disk."""
        candidates: list[SelectionCandidate] = []
        labelled: list[str] = []
        for batch in read_rows(work.inputs["data"], self.split):
            for row in batch:
                if judgments_of(row.meta):
                    labelled.append(prompt_or_answer_of(row))
                else:
                    candidates.append(_candidate(row))
        return LabelingPool(candidates, labelled, work.seed, work.recipe_dir)

    def _why_enough(self, work: StepContext) -> str:
        """Why no further rows are wanted, by the curve; empty where they are."""
        if self.min_gain is None:
            return ""
        numbers = read_findings(work.inputs["curve"]).numbers
        if BATCH_GAIN not in numbers:
            what = f"the findings do not say {BATCH_GAIN}"
            raise RecipeError(what, where=SourceLocation(field="curve"), hint="name a step of kind `curve`")
        gain = numbers[BATCH_GAIN].value
        return f"enough: a further batch brings less than {self.min_gain:g}" if gain < self.min_gain else ""

    def _write(self, work: StepContext, marks: Mapping[str, dict[str, Any]], left: str) -> None:
        data = work.inputs["data"]
        dataset_summary = DatasetSummary.read(data)
        dataset_writer = DerivedDatasetWriter(work, data)
        picked: list[Row] = []
        for split in list_splits(data):
            for row in (row for batch in read_rows(data, split) for row in batch):
                if split != self.split:
                    dataset_writer.drop(row, "in another split")
                elif row.id in marks:
                    picked.append(replace(row, meta={**row.meta, SELECTED: marks[row.id]}))
                else:
                    dataset_writer.drop(row, "judged already" if judgments_of(row.meta) else left)
        picked.sort(key=lambda row: row.meta[SELECTED]["rank"])
        dataset_writer.keep(
            self.split, picked, [row.answer if dataset_summary.task == "label" else None for row in picked]
        )
        dataset_writer.close(task=dataset_summary.task, labels=dataset_summary.labels)

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """From the rows and the speed of the last time, or a common one; findings that are no curve's are refused."""
        checked = plan_context.upstream.get("curve")
        known = checked.measured() if checked is not None else None
        if known is not None and BATCH_GAIN not in known:
            what = f"the findings do not say {BATCH_GAIN}"
            raise RecipeError(what, where=SourceLocation(field="curve"), hint="name a step of kind `curve`")
        return estimate_cost_by_rows(plan_context, ROWS_PER_S)

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """As many rows as are chosen."""
        before = dataset_spec_of(plan_context)
        rows = (before.rows or {}).get(self.split)
        return replace(before, rows={self.split: self.count if rows is None else min(rows, self.count)})


def _candidate(row: Row) -> SelectionCandidate:
    proposal = row.meta.get(PROPOSAL)
    shares = proposal.get("scores") if isinstance(proposal, dict) else None
    return SelectionCandidate(row.id, row.file, row.line, prompt_or_answer_of(row), shares or None)
