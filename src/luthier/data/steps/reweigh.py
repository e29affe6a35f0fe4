"""The step that makes groups and labels independent in training: by weights, or by leaving rows out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import floor
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from luthier.artifacts.dataset import DatasetSummary, dataset_spec_of, has_split, list_splits
from luthier.core.errors import DataError, SourceLocation, did_you_mean
from luthier.core.param_space import ParamDistribution
from luthier.core.step import ArtifactSpec, DataRef, PlanContext, Step, StepContext, StepCostEstimate
from luthier.data.checks.bias_terms import TERMS, find_demographic_groups
from luthier.data.engine.cache import DerivedDatasetWriter, prompt_or_answer_of, read_rows
from luthier.data.row import Row
from luthier.data.split import TRAIN
from luthier.data.steps.label import preview_input_rows

ROWS_PER_S = 5_000
Axis = Literal["gender", "orientation", "religion", "origin", "age", "ability"]


class GroupLabel(NamedTuple):
    """A group and a label; of free text, the label is empty."""

    group: str
    label: str


class Reweigh(Step):
    """Weigh training rows so that no label goes with a group (reweighing, Kamiran and Calders 2012).

    A row of group g and label y gets the weight P(g) P(y) / P(g, y), which is above 1 where the pair is rarer than
    chance would have it; of free text, all groups get the same sum. `how: sample` leaves rows out instead, drawn by
    content, until each pair has its share. The weights are learnt by `objective: {kind: sft, weight: weight}`.
    Held-out rows stay as they are, with weight 1.
    """

    kind: Literal["reweigh"] = "reweigh"
    makes: ClassVar[str] = "dataset"

    data: DataRef
    """The step that made the data set."""
    column: str | None = None
    """The column that tells the groups apart, such as `region`; rows without it are a group of their own."""
    axis: Axis | None = None
    """Instead of a column: groups by the words that name them in the prompt (as the check `bias_terms` reads them);
    rows that name none, or several, are a group of their own."""
    how: Literal["weigh", "sample"] = "weigh"
    """Give every row a weight, or leave rows of too frequent pairs out."""
    weight: str = Field(default="weight", min_length=1)
    """The column of `meta` that the weight is written to."""
    max: float = Field(default=10.0, gt=1)
    """No weight is larger: one rare row should not decide what is learnt."""

    @model_validator(mode="after")
    def _groups_by_one_thing(self) -> Reweigh:
        if (self.column is None) == (self.axis is None):
            raise ValueError("wants either `column` or `axis`: by what rows fall into groups")
        return self

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Count pairs, then write every row with its weight, or without those that are left out."""
        data = work.inputs["data"]
        dataset_summary = DatasetSummary.read(data)
        if not has_split(data, TRAIN):
            raise DataError("the data set has no training rows", where=SourceLocation(field="data"))
        is_label = dataset_summary.task == "label"
        cells = {row.id: self._cell(row, is_label) for batch in read_rows(data, TRAIN) for row in batch}
        counts = Counter(cells.values())
        self._check(work, counts)
        weights = compute_group_label_weights(counts, most=self.max)
        left_out = _too_many(cells, counts, work.seed) if self.how == "sample" else frozenset()
        dataset_writer = DerivedDatasetWriter(work, data)
        for split in list_splits(data):
            for batch in read_rows(data, split):
                kept = []
                for row in batch:
                    if split == TRAIN and row.id in left_out:
                        dataset_writer.drop(row, f"balanced away: {' and '.join(filter(None, cells[row.id]))}")
                    else:
                        kept.append(self._weighed(row, weights[cells[row.id]] if split == TRAIN else 1.0))
                dataset_writer.keep(split, kept, [row.answer if is_label else None for row in kept])
        dataset_writer.close(task=dataset_summary.task, labels=dataset_summary.labels)
        work.events.note(self._said(counts, weights, len(left_out)))
        return {}

    def _cell(self, row: Row, is_label: bool) -> GroupLabel:
        label = row.answer if is_label else ""
        if self.column is not None:
            value = row.meta.get(self.column)
            return GroupLabel("" if value is None else str(value), label)
        mine = [name for name in find_demographic_groups(prompt_or_answer_of(row)) if name.startswith(f"{self.axis}: ")]
        return GroupLabel(mine[0].partition(": ")[2] if len(mine) == 1 else "", label)

    def _check(self, work: StepContext, counts: Mapping[GroupLabel, int]) -> None:
        groups = {cell.group for cell in counts}
        if groups == {""}:
            what = f"no training row has {self.column!r}" if self.column else f"no training row names a {self.axis}"
            known = {name for batch in read_rows(work.inputs["data"], TRAIN) for row in batch for name in row.meta}
            hint = did_you_mean(self.column, known) if self.column else f"other axes: {', '.join(TERMS)}"
            raise DataError(what, where=SourceLocation(field="column" if self.column else "axis"), hint=hint)
        if len(groups) < 2:
            raise DataError("all training rows are of one group", where=SourceLocation(field="column"))

    def _weighed(self, row: Row, weight: float) -> Row:
        return row if self.how == "sample" else replace(row, meta={**row.meta, self.weight: weight})

    def _said(self, counts: Mapping[GroupLabel, int], weights: Mapping[GroupLabel, float], dropped: int) -> str:
        if self.how == "sample":
            return f"{dropped:,} of {sum(counts.values()):,} training rows are left out"
        least, most = min(weights, key=weights.__getitem__), max(weights, key=weights.__getitem__)
        messages = [
            f"{weights[group_label]:g} for {' and '.join(filter(None, group_label)) or 'rows of no group'}"
            for group_label in (least, most)
        ]
        return f"weights from {messages[0]} to {messages[1]}"

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """From the rows and a common speed."""
        rows = preview_input_rows(plan_context)
        if rows is None:
            return StepCostEstimate(how="the data set is not made yet")
        return StepCostEstimate(seconds=1 + rows / ROWS_PER_S, how=f"{rows:,} rows at {ROWS_PER_S:,} rows/s")

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """The rows of the data set, at most."""
        return dataset_spec_of(plan_context)

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """How much one row may count."""
        return {"max": ParamDistribution(2.0, 20.0, log=True)} if self.how == "weigh" else {}


def compute_group_label_weights(counts: Mapping[GroupLabel, int], *, most: float) -> dict[GroupLabel, float]:
    """P(g) P(y) / P(g, y) of each pair; of one label only, weights that give all groups the same sum."""
    total = sum(counts.values())
    groups, labels = Counter[str](), Counter[str]()
    for cell, count in counts.items():
        groups[cell.group] += count
        labels[cell.label] += count
    if len(labels) == 1:
        found = {cell: total / (len(groups) * count) for cell, count in counts.items()}
    else:
        found = {cell: groups[cell.group] * labels[cell.label] / (total * count) for cell, count in counts.items()}
    return {cell: round(min(weight, most), 6) for cell, weight in found.items()}


def _too_many(cells: Mapping[str, GroupLabel], counts: Mapping[GroupLabel, int], seed: int) -> frozenset[str]:
    """Rows beyond each pair's share, when no row may come twice: all shares are made as small as the rarest needs."""
    weights = compute_group_label_weights(counts, most=float("inf"))
    factor = min(1 / weight for weight in weights.values())
    capacity = {cell: floor(count * weights[cell] * factor + 1e-6) for cell, count in counts.items()}
    found = []
    for name in sorted(cells, key=lambda entry: hashlib.sha256(f"{seed}:{entry}".encode()).digest()):
        capacity[cells[name]] -= 1
        if capacity[cells[name]] < 0:
            found.append(name)
    return frozenset(found)
