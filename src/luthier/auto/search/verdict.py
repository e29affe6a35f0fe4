"""The honest end of a search: is one of its finalists better than the settings that it began with?

Finalists and `of` (trial 0) are whole models, trained by the same seeds and scored on the same test rows, which no
trial has seen. Each finalist is compared with `of`, and all with the plain baseline, as evaluations are compared
(`scores`), with Holm's correction over all finalists that were looked at. A finalist is better where its corrected p
is below 0.05 and the difference is on the better side; of those the best is taken; where there is none, `of` stays.

The best of several measured values is too good on average. What the winner gains is therefore told a second time,
shrunken towards the mean of all finalists (empirical Bayes, of James and Stein's type): the part of the finalists'
variance that rows and seeds do not account for says how much of the distance from the mean is kept. The mean is not
chosen by the test rows, and is not shrunken.

A preference (`smallest within 1 point`) goes by the estimate of the paired difference, not by its lower end: with a few
hundred rows no difference of a point is ever sure. The sentence tells the lower end.

Holm 1979, Scand. J. Stat. 6; James and Stein 1961; Efron and Morris 1975, J. Am. Stat. Assoc. 70 (towards the mean);
Morris 1983, J. Am. Stat. Assoc. 78 (its interval).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from luthier.artifacts.search import SearchComparison, SearchVerdict, ShrunkenGain
from luthier.auto.search.scores import PLAIN, ScoreTable, compute_half_width, compute_mean_pair_variance
from luthier.core.errors import DataError, RecipeError, SourceLocation, did_you_mean
from luthier.core.events import format_counted_noun
from luthier.eval.report import formatting
from luthier.metrics.paired import PairedComparison, adjust_comparisons_holm

SURE = 0.05
"""Holm's p below which a difference is called clear."""


@dataclass(frozen=True, kw_only=True)
class _Comparisons:
    """Everything that was compared, and what decides between the finalists."""

    table: ScoreTable
    of: str
    against_of: Mapping[int, PairedComparison]
    against_plain: Mapping[int, PairedComparison]
    refused: Mapping[int, str]

    @property
    def allowed(self) -> list[int]:
        """Trials that meet the constraints, the best first."""
        return [trial for trial in rank_trials(self.table) if not self.refused.get(trial)]

    def is_better(self, trial: int) -> bool:
        """Return whether a trial is significantly better than `of`."""
        comparison = self.against_of.get(trial)
        return comparison is not None and self.table.gain(trial, 0) > 0 and _p(comparison) < SURE


def decide_winner(
    table: ScoreTable,
    *,
    of: str,
    whole: float = 1.0,
    prefer: MeasurePreference | None = None,
    measured: Mapping[int, Mapping[str, float]] | None = None,
    refused: Mapping[int, str] | None = None,
    seed: int = 0,
) -> SearchVerdict:
    """Which trial is taken, and how sure that is.

    `table` holds the finalists, `of` as trial 0 and perhaps the plain baseline; `of` is its name for people. `whole` is
    what 100 % of the metric is. `measured` are the aims of each trial, `refused` which constraint a trial does not
    meet. The seed draws resamples and permutations.
    """
    if 0 not in table.blocks:
        raise DataError("the settings that the search began with (trial 0) were not measured on the test rows")
    comparisons = _look(table, of, refused or {}, seed)
    allowed = comparisons.allowed
    winner = next((trial for trial in allowed if comparisons.is_better(trial)), 0)
    if winner == 0 and comparisons.refused.get(0) and allowed:
        winner = allowed[0]
    taken = _choose_preferred(comparisons, winner, prefer, whole, measured or {}) if prefer and allowed else winner
    gain = shrink_gain(table, next((trial for trial in allowed or rank_trials(table) if trial), None))
    return SearchVerdict(
        winner=taken,
        best=allowed[0] if allowed else 0,
        better=comparisons.is_better(taken),
        sentence=_summarize(comparisons, winner, taken, prefer, gain),
        comparisons=(
            *_records(table, comparisons.against_of, "of"),
            *_records(table, comparisons.against_plain, "plain"),
        ),
        gain=gain,
        prefer=prefer.text if prefer and taken != winner else "",
    )


def rank_trials(table: ScoreTable) -> list[int]:
    """The trials by their mean on the rows, the best first; of equal ones the earlier."""
    return sorted(table.trials, key=lambda trial: (-table.gain(trial, 0), trial))


def _look(table: ScoreTable, of: str, refused: Mapping[int, str], seed: int) -> _Comparisons:
    others = [trial for trial in table.trials if trial]
    with_plain = table.trials if PLAIN in table.blocks else []
    return _Comparisons(
        table=table,
        of=of,
        against_of=_family(others, [table.compare(trial, 0, seed=seed) for trial in others]),
        against_plain=_family(with_plain, [table.compare(trial, PLAIN, seed=seed) for trial in with_plain]),
        refused=refused,
    )


def _family(trials: Sequence[int], compared: Sequence[PairedComparison]) -> dict[int, PairedComparison]:
    return dict(zip(trials, adjust_comparisons_holm(compared), strict=True))


def _choose_preferred(
    looked: _Comparisons,
    winner: int,
    prefer: MeasurePreference,
    whole: float,
    measured: Mapping[int, Mapping[str, float]],
) -> int:
    """Return the preferred trial among those within the margin of the winner."""
    known = {trial: measured.get(trial, {}).get(prefer.measure) for trial in looked.allowed}
    margin = prefer.margin(whole) + 1e-9
    near = {
        trial: (amount, trial != winner, trial)
        for trial, amount in known.items()
        if amount is not None and looked.table.gain(trial, winner) >= -margin
    }
    return min(near, key=lambda trial: near[trial]) if near.keys() & {winner} else winner


def shrink_gain(table: ScoreTable, trial: int | None) -> ShrunkenGain | None:
    """Return a finalist's gain over `of`, shrunk towards the mean of all finalists; None without a finalist.

    Positive where it is better. A single finalist was not selected, and is not shrunk.
    """
    import numpy as np

    if trial is None:
        return None
    others = [entry for entry in table.trials if entry]
    gains = np.array([table.gain(other, 0) for other in others])
    observed, mean, count = table.gain(trial, 0), float(gains.mean()), len(others)
    covariance = table.covariance([0, *others])
    by_seeds = sum(table.variance_by_seeds(other) for other in others) / count
    own = compute_mean_pair_variance(covariance[1:, 1:]) + by_seeds
    spread = float(gains.var(ddof=1)) if count > 1 else math.inf
    kept = 0.0 if spread <= own else 1 - own / spread
    weights = np.array([-1.0, *np.full(count, 1 / count)])
    unsure = 2 / (count + 1) * (1 - kept) ** 2 * (observed - mean) ** 2 if count > 1 else 0.0
    from_rows = float(weights @ covariance @ weights) + kept * (own - by_seeds) * (count - 1) / count + unsure
    from_seeds = table.variance_by_seeds(0) + by_seeds * (1 / count + kept * (count - 1) / count)
    value = mean + kept * (observed - mean)
    reach = compute_half_width(from_rows, from_seeds, table.rows, table.seed_variance[1])
    return ShrunkenGain(observed=observed, value=value, low=value - reach, high=value + reach, kept=kept)


def _records(
    table: ScoreTable, compared: Mapping[int, PairedComparison], against: Literal["of", "plain"]
) -> list[SearchComparison]:
    return [
        SearchComparison(
            trial=trial,
            against=against,
            difference=found.difference,
            low=found.low,
            high=found.high,
            p=found.p,
            p_holm=_p(found),
            test=found.test,
            rows=found.rows,
            detectable=found.detectable,
        )
        for trial, found in compared.items()
    ]


def _p(found: PairedComparison) -> float:
    return found.p if found.p_holm is None else found.p_holm


def _summarize(
    looked: _Comparisons, winner: int, taken: int, prefer: MeasurePreference | None, gain: ShrunkenGain | None
) -> str:
    parts = [_outcome(looked, winner, gain)]
    if taken != winner and prefer is not None:
        parts.append(_preference_sentence(looked, winner, taken, prefer))
    parts += _plain_sentence(looked, taken)
    drawn = [trial for trial in looked.table.trials if trial not in looked.table.fixed]
    if looked.against_of and drawn and all(looked.table.seeds(trial) == 1 for trial in drawn):
        parts.append("Each was trained by one seed: what another would give is not in these numbers.")
    return " ".join(parts)


def _outcome(looked: _Comparisons, winner: int, gain: ShrunkenGain | None) -> str:
    finalists, metric = len(looked.against_of), looked.table.metric
    if not finalists:
        return f"{looked.of} stays as it is: no other trial came so far."
    if not looked.allowed:
        return f"{looked.of} stays as it is, for no finalist meets the constraints ({looked.refused[0]})."
    many = format_counted_noun(finalists, "finalist")
    if not looked.is_better(winner):
        best = next((trial for trial in looked.allowed if trial), None)
        if winner != 0:
            return f"{_name(winner)} is taken, for {looked.of} does not meet the constraints ({looked.refused[0]})."
        if best is None:
            return f"{looked.of} stays as it is: no other finalist meets the constraints."
        comparison = looked.against_of[best]
        shown = formatting.format_difference(comparison.difference, comparison.low, comparison.high, metric)
        smallest = formatting.format_number(comparison.detectable, formatting.count_decimals(metric))
        return (
            f"{looked.of} stays as it is: of {many} none is clearly better. The best, trial {best}, differs by {shown} "
            f"in {formatting.get_metric_title(metric)} "
            f"({formatting.format_p_value(_p(comparison))} with Holm's correction); "
            f"{comparison.rows:,} test rows show a difference of {smallest} four times out of five."
        )
    comparison = looked.against_of[winner]
    shown = formatting.format_difference(comparison.difference, comparison.low, comparison.high, metric)
    expected = ""
    if gain is not None and gain.kept < 1:
        sign = -1 if looked.table.lower_is_better else 1
        decimals = formatting.count_decimals(metric)
        expected = (
            f" That it was chosen among {many} allowed for, {formatting.format_signed(sign * gain.value, decimals)}"
        )
        expected += " is to be expected."
    return (
        f"{_name(winner)} is better than {looked.of}: {shown} in {formatting.get_metric_title(metric)} on "
        f"{comparison.rows:,} test rows "
        f"({formatting.format_p_value(_p(comparison))} with Holm's correction over {many}).{expected}"
    )


def _preference_sentence(looked: _Comparisons, winner: int, taken: int, prefer: MeasurePreference) -> str:
    comparison = looked.table.compare(taken, winner)
    shown = formatting.format_difference(comparison.difference, comparison.low, comparison.high, looked.table.metric)
    other = looked.of if winner == 0 else f"trial {winner}"
    name = looked.of if taken == 0 else _name(taken)
    return f"{name} is taken all the same, as the {prefer.text}: it differs from {other} by {shown}."


def _plain_sentence(looked: _Comparisons, taken: int) -> list[str]:
    comparison = looked.against_plain.get(taken)
    if comparison is None:
        return []
    shown = formatting.format_difference(comparison.difference, comparison.low, comparison.high, looked.table.metric)
    better = looked.table.gain(taken, PLAIN) > 0
    if _p(comparison) < SURE:
        return [f"It is {'better' if better else 'worse'} than the plain baseline: {shown}."]
    return [f"It is not clearly better than the plain baseline: {shown}."]


def _name(trial: int) -> str:
    return f"Trial {trial}"


MEASURES = {"smallest": "parameters", "quickest": "latency", "cheapest": "price"}
"""The measure of each word of a preference; lower is preferred."""
_FORM = re.compile(r"([A-Za-z]+) within (\d{1,6}(?:\.\d{1,6})?) (points?)")
_HINT = "write for example `smallest within 1 point`, `quickest within 2 points` or `cheapest within 0.5 points`"


class MeasurePreference(NamedTuple):
    """A measure to minimize, as long as the metric is within a margin of points."""

    text: str
    measure: str
    points: float

    def margin(self, whole: float) -> float:
        """The points on the scale of a metric of which 100 % is `whole`: hundredths of it."""
        return self.points / 100 * whole


def parse_preference(text: str, field: str = "prefer") -> MeasurePreference:
    """Parse a preference; `RecipeError` says what is wrong with it."""
    where = SourceLocation(field=field)
    match = _FORM.fullmatch(" ".join(text.split()))
    if match is None:
        raise RecipeError(f"expected a preference, got {text!r}", where=where, hint=_HINT)
    word = match[1].lower()
    if word not in MEASURES:
        what = f"expected {', '.join(MEASURES)}, got {match[1]!r}"
        raise RecipeError(what, where=where, hint=did_you_mean(word, MEASURES))
    return MeasurePreference(f"{word} within {match[2]} {match[3]}", MEASURES[word], float(match[2]))
