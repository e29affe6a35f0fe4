"""The gap between groups of the user's own rows: how much worse the model is for those whom it serves worst."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from luthier.eval.evaluator import groups_by
from luthier.eval.probe import Measure, Probe, ProbeContext
from luthier.eval.results import Statistic, measured


class GroupGap(Probe):
    """Accuracy of the best-served group minus that of the worst-served: `bias.gap`."""

    kind: Literal["group_gap"] = "group_gap"
    measures: ClassVar[tuple[str, ...]] = ("bias.gap",)
    column: str
    """The column that tells the groups apart: one that was not mapped to text or label, such as `channel`."""
    min: int = Field(default=20, ge=2)
    """Groups with fewer rows are left out: their accuracy says too little."""

    def measure(self, context: ProbeContext) -> list[Measure]:
        import numpy as np

        from luthier.eval.bias import bounds
        from luthier.eval.bias.gaps import columns, spread

        groups = groups_by(context.task, self.column, self.min, self.kind)
        number = np.full(len(context.task.examples), -1)
        for index, rows in enumerate(groups.values()):
            number[rows] = index
        inside = number >= 0
        blocks, details = {}, {}
        for model, answers in context.answers.items():
            right = np.array(
                [predicted in real for predicted, real in zip(answers.predictions, answers.references, strict=True)]
            )
            block = columns(right.astype(float), np.ones(len(right)), number, len(groups))
            blocks[model] = block[inside]
            details[model] = {name: float(right[rows].mean()) for name, rows in groups.items()}
        signature = f"column:{self.column}|least:{self.min}"
        gap = Statistic(name="bias.gap", value=spread, ends=bounds.spread, signature=signature)
        return measured(gap, blocks, context, details)
