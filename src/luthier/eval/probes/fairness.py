"""Group fairness of a decision about people: who gets the good answer, and who gets it wrongly or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.core.errors import RecipeError, SourceLocation, did_you_mean
from luthier.eval.evaluator import group_rows_by_column
from luthier.eval.probe import Probe, ProbeContext, ProbeMeasure
from luthier.eval.results import SummedStatistic, compute_probe_measures

if TYPE_CHECKING:
    from luthier.metrics.intervals import Method


class Fairness(Probe):
    """Demographic parity (difference and ratio), equal opportunity, equalised odds, and accuracy of the worst group.

    Equal to fairlearn's `demographic_parity_difference`, `demographic_parity_ratio`, `equal_opportunity_difference`
    and `equalized_odds_difference` on the same answers. Which of them should be small is a question about the decision,
    not about statistics: they cannot all be (Kleinberg et al. 2016; Chouldechova 2017).
    """

    kind: Literal["fairness"] = "fairness"
    measures: ClassVar[tuple[str, ...]] = (
        "bias.demographic_parity",
        "bias.demographic_parity_ratio",
        "bias.equal_opportunity",
        "bias.equalised_odds",
        "bias.worst_group",
    )
    column: str
    """The column that tells the groups apart: one that was not mapped to text or label, such as `region`."""
    positive: str
    """The label that is good to get, such as `approved`."""
    min: int = Field(default=20, ge=2)
    """Groups with fewer rows are left out."""

    def measure(self, context: ProbeContext) -> list[ProbeMeasure]:
        import numpy as np

        from luthier.eval import group_gaps

        if context.task.kind == "label" and self.positive not in context.task.options:
            what, hint = f"no label is {self.positive!r}", did_you_mean(self.positive, context.task.labels)
            raise RecipeError(what, where=SourceLocation(field="probes"), hint=hint)
        groups = group_rows_by_column(context.task, self.column, self.min, self.kind)
        number = np.full(len(context.task.examples), -1)
        for index, rows in enumerate(groups.values()):
            number[rows] = index
        kept = np.flatnonzero(number >= 0)
        number, real = number[kept], np.array(context.task.references)[kept]
        should, every = (real == self.positive).astype(float), np.ones(len(kept))
        tables: dict[str, dict[str, np.ndarray]] = {name: {} for name in self.measures}
        details: dict[str, dict[str, dict[str, float]]] = {name: {} for name in self.measures}
        for model, answers in context.answers.items():
            predicted = np.array(answers.predictions)[kept]
            got = (predicted == self.positive).astype(float)
            chosen = group_gaps.build_group_columns(got, every, number, len(groups))
            hits = group_gaps.build_group_columns(got, should, number, len(groups))
            wrongly = group_gaps.build_group_columns(got, 1 - should, number, len(groups))
            right = group_gaps.build_group_columns((predicted == real).astype(float), every, number, len(groups))
            blocks = (chosen, chosen, hits, np.hstack([hits, wrongly]), right)
            for name, block in zip(self.measures, blocks, strict=True):
                tables[name][model] = block
                of_groups = group_gaps.compute_group_shares(block.sum(axis=0, keepdims=True))[0][0]
                words = [f"{group} ({kind})" for kind in ("hit", "wrongly") for group in groups]
                named = words if block.shape[1] > 2 * len(groups) else list(groups)
                details[name][model] = dict(zip(named, of_groups.tolist(), strict=True))
        signature = f"column:{self.column}|positive:{self.positive}|least:{self.min}"
        values = (
            group_gaps.compute_share_spread,
            group_gaps.compute_share_ratio,
            group_gaps.compute_share_spread,
            group_gaps.compute_greater_spread,
            group_gaps.compute_lowest_share,
        )
        ends = (
            group_gaps.compute_spread_interval,
            group_gaps.compute_ratio_interval,
            group_gaps.compute_spread_interval,
            group_gaps.compute_greater_spread_interval,
            group_gaps.bound_lowest_share,
        )
        found = []
        for name, value, own in zip(self.measures, values, ends, strict=True):
            lower = name not in ("bias.demographic_parity_ratio", "bias.worst_group")
            method: Method = "t" if value is group_gaps.compute_share_ratio else "bca"
            statistic = SummedStatistic(
                name=name, value=value, ends=own, method=method, lower_is_better=lower, signature=signature
            )
            found += compute_probe_measures(statistic, tables[name], context, details[name])
        return found
