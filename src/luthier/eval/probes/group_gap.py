"""The gap between groups of the user's own rows: how much worse the model is for those whom it serves worst."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from luthier.eval.evaluator import group_rows_by_column
from luthier.eval.probe import Probe, ProbeContext, ProbeMeasure
from luthier.eval.results import SummedStatistic, compute_probe_measures


class GroupGap(Probe):
    """Accuracy of the best-served group minus that of the worst-served: `bias.gap`."""

    kind: Literal["group_gap"] = "group_gap"
    measures: ClassVar[tuple[str, ...]] = ("bias.gap",)
    column: str
    """The column that tells the groups apart: one that was not mapped to text or label, such as `channel`."""
    min: int = Field(default=20, ge=2)
    """Groups with fewer rows are left out: their accuracy says too little."""

    def measure(self, context: ProbeContext) -> list[ProbeMeasure]:
        import numpy as np

        from luthier.eval import group_gaps
        from luthier.eval.group_gaps import build_group_columns, compute_share_spread

        groups = group_rows_by_column(context.task, self.column, self.min, self.kind)
        number = np.full(len(context.task.examples), -1)
        for index, rows in enumerate(groups.values()):
            number[rows] = index
        inside = number >= 0
        blocks, details = {}, {}
        for model, answers in context.answers.items():
            right = np.array(
                [predicted in real for predicted, real in zip(answers.predictions, answers.references, strict=True)]
            )
            block = build_group_columns(right.astype(float), np.ones(len(right)), number, len(groups))
            blocks[model] = block[inside]
            details[model] = {name: float(right[rows].mean()) for name, rows in groups.items()}
        signature = f"column:{self.column}|least:{self.min}"
        gap = SummedStatistic(
            name="bias.gap", value=compute_share_spread, ends=group_gaps.compute_spread_interval, signature=signature
        )
        return compute_probe_measures(gap, blocks, context, details)
