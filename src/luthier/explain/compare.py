"""Methods compared over rows, in pairs: which one to use for a model, and whether any is better than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

from luthier.artifacts.explanation import (
    ExplanationRecord,
    ExplanationSummary,
    FaithfulnessScores,
    MeasureOverRows,
    MethodComparison,
    MethodSummary,
)
from luthier.core.errors import DataError
from luthier.core.events import format_counted_noun

if TYPE_CHECKING:
    from luthier.metrics.intervals import Block

RANDOM = "random"
ALPHA = 0.05


def summarize_methods(
    records: Mapping[str, Sequence[ExplanationRecord]], skipped: Mapping[str, int], seed: int
) -> ExplanationSummary:
    """Summarize the records of the same rows by several methods; each must have its faithfulness."""
    first = next(iter(records.values()))
    if not first:
        reasons = "; ".join(skipped) or "there are no rows"
        raise DataError(f"no row could be explained: {reasons}", hint="take finer `units`, or another split")
    measured = {
        method: [_faithfulness(explanation_record) for explanation_record in own] for method, own in records.items()
    }
    summaries = sorted(
        (_summarize(method, own, seed) for method, own in measured.items()),
        key=lambda method_summary: (
            -(method_summary.comprehensiveness.value - method_summary.sufficiency.value),
            method_summary.method,
        ),
    )
    comparisons = _compare({summary.method: measured[summary.method] for summary in summaries}, seed)
    best = next((summary for summary in summaries if summary.method != RANDOM), summaries[0])
    return ExplanationSummary(
        model=first[0].model,
        digest=first[0].digest,
        rows=len(first),
        skipped=dict(sorted(skipped.items())),
        unit=first[0].unit,
        methods=tuple(summaries),
        comparisons=tuple(comparisons),
        best=best.method,
        sentence=_sentence(best, comparisons, len(first)),
    )


def _faithfulness(record: ExplanationRecord) -> FaithfulnessScores:
    assert record.faithfulness is not None, "a step measures faithfulness with every explanation"
    return record.faithfulness


def _score(one: FaithfulnessScores) -> float:
    return one.comprehensiveness - one.sufficiency


def _summarize(method: str, own: Sequence[FaithfulnessScores], seed: int) -> MethodSummary:
    agreement = [faithfulness.rank_agreement for faithfulness in own if faithfulness.rank_agreement is not None]
    gains = [
        _score(faithfulness) - faithfulness.random_comprehensiveness.mean + faithfulness.random_sufficiency.mean
        for faithfulness in own
    ]
    return MethodSummary(
        method=method,
        comprehensiveness=_mean([faithfulness.comprehensiveness for faithfulness in own], seed),
        sufficiency=_mean([faithfulness.sufficiency for faithfulness in own], seed),
        rank_agreement=_mean(agreement, seed) if agreement else None,
        gain_over_random=_mean(gains, seed),
    )


def _block(values: Sequence[float]) -> Block:
    import numpy as np

    return np.array([[value, 1.0] for value in values])


def _width(values: Sequence[float]) -> float:
    """Return the usual distance of a row from 0: 1 for probabilities and correlations, more for rewards."""
    return max(1.0, *map(abs, values))


def _mean(values: Sequence[float], seed: int) -> MeasureOverRows:
    from luthier.metrics.intervals import IntervalJob, compute_intervals
    from luthier.metrics.kinds.answers import ratio_of_sums

    width = _width(values)
    job = IntervalJob(blocks=(_block(values),), value=lambda sums: ratio_of_sums(sums[0]), span=(-width, width))
    (interval,) = compute_intervals([job], seed=seed)
    return MeasureOverRows(value=interval.value, low=interval.low, high=interval.high, rows=len(values))


def _compare(measured: Mapping[str, Sequence[FaithfulnessScores]], seed: int) -> list[MethodComparison]:
    """All pairs of methods, the more faithful first."""
    from luthier.metrics.kinds.answers import ratio_of_sums
    from luthier.metrics.paired import adjust_comparisons_holm, compare_row_statistics

    pairs = list(combinations(measured, 2))
    found = []
    for pair in pairs:
        values = [[_score(faithfulness) for faithfulness in measured[method]] for method in pair]
        width = 2 * _width([*values[0], *values[1]])
        blocks = (_block(values[0]), _block(values[1]))
        found.append(
            compare_row_statistics("faithfulness", blocks, ratio_of_sums, width=width, lower_is_better=False, seed=seed)
        )
    adjusted = adjust_comparisons_holm([replace(comparison, p_holm=None) for comparison in found])
    return [
        MethodComparison(
            method=method, against=against, difference=comparison.difference, low=comparison.low, high=comparison.high,
            p=comparison.p,
            p_holm=comparison.p if comparison.p_holm is None else comparison.p_holm, rows=comparison.rows,
        )
        for (method, against), comparison in zip(pairs, adjusted, strict=True)
    ]  # fmt: skip


def _sentence(best: MethodSummary, comparisons: Sequence[MethodComparison], rows: int) -> str:
    over = f"over {format_counted_noun(rows, 'row')}"
    gain = best.gain_over_random
    ends = f"{gain.value:+.3f} (95 % interval {gain.low:+.3f} to {gain.high:+.3f})"
    if gain.low <= 0:
        return f"No method is clearly better than random orders {over}; the best, {best.method}, gains {ends}."
    rivals = [
        comparison
        for comparison in comparisons
        if best.method in (comparison.method, comparison.against) and comparison.p_holm > ALPHA
    ]
    names = sorted({rival.against if rival.method == best.method else rival.method for rival in rivals} - {RANDOM})
    as_good = f"; {', '.join(names)} may be as good" if names else ""
    return f"Explain this model by {best.method}: it gains {ends} over random orders {over}{as_good}."
