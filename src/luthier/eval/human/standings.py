"""Standings of a rating study in progress: strengths, ranks with bounds, agreement of raters and judge models.

It needs no SciPy, since a web server computes it again and again. The report has more (`results.py`).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from statistics import median
from typing import TYPE_CHECKING

from luthier.core.artifact import Artifact
from luthier.core.errors import DataError
from luthier.core.messages import gettext_noop
from luthier.eval.human.results import compute_row_points, list_comparisons, score_ratings
from luthier.eval.human.tally import RatingTally, describe_advice

if TYPE_CHECKING:
    from luthier.annotation.question import RatingQuestion
    from luthier.eval.human.results import ScoredRating
    from luthier.eval.human.study import Assignment
    from luthier.metrics.anytime_ranking import PairStanding, RankingAdvice
    from luthier.metrics.bradley_terry import PairwiseComparison, Strength

JUDGE_COLUMNS = {"judge": "a judging model", "reward": "a reward model"}
"""Columns of LLM judges in an evaluation, and their descriptions."""
JudgeScores = Mapping[str, Mapping[tuple[str, str], float]]
"""For each such column, the score of each row and model."""


@dataclass(frozen=True, kw_only=True)
class RaterAgreement:
    """Agreement of two raters, or two groups; 95 % intervals, clustered by row."""

    name: str
    share: float
    low: float
    high: float
    kappa: float | None
    """Cohen's kappa; None with a single category."""
    kappa_low: float | None
    kappa_high: float | None
    rows: int


@dataclass(frozen=True, kw_only=True)
class ModelStanding:
    """One model's strength relative to the last one's, plain and controlled for length and mark-up."""

    name: str
    plain: Strength
    styled: Strength


@dataclass(frozen=True, kw_only=True)
class JudgeStanding:
    """One annotator's statistics."""

    name: str
    judged: int
    seconds: float | None
    attention_checks: tuple[int, int] | None
    """Attention checks passed, and rated."""
    agreement: float | None
    """Agreement with others on the same items."""
    counts: bool


@dataclass(frozen=True, kw_only=True)
class StudyStandings:
    """All of it."""

    stop: str
    """Whether more ratings are needed, in a sentence."""
    advice: RankingAdvice | None
    pairs: tuple[PairStanding, ...]
    strengths: tuple[ModelStanding, ...]
    """The strongest first; empty before all models were compared."""
    effects: Mapping[str, Strength]
    """Effect of doubling each covariate on the log-strength of an answer."""
    judges: tuple[JudgeStanding, ...]
    agreement: tuple[RaterAgreement, ...]
    """People with each other, and judging models with people."""
    judgments: int


def compute_study_standings(
    tally: RatingTally,
    assignment: Assignment,
    question: RatingQuestion,
    models: Sequence[str],
    judge_scores: JudgeScores,
) -> StudyStandings:
    """Compute the results of the valid ratings."""
    counting = [rating for rating in tally.ratings.values() if rating.annotator not in tally.left_out]
    scored = score_ratings(assignment, question, counting)
    strengths: tuple[ModelStanding, ...] = ()
    effects: dict[str, Strength] = {}
    if question.sides == 2:
        strengths, effects = fit_strengths(list_comparisons(assignment, scored), models)
    ranking = tally.ranking if len(models) > 1 else None
    advice = ranking.advise() if ranking is not None else None
    if ranking is None or advice is None:
        stop = gettext_noop("One model is judged; go on until its interval is as narrow as you need.")
    else:
        same = len({row for row, *_ in assignment.same.values()})
        stop = (
            describe_advice(advice, ranking.rows, same)
            if counting and ranking.rows
            else gettext_noop("Nothing is judged yet.")
        )
    categories = _categories(question, scored)
    people = compare_raters(
        "people with each other",
        [
            (item, entry, other)
            for item, by_judge in categories.items()
            for entry, other in permutations(by_judge.values(), 2)
        ],
    )  # fmt: skip
    machines = (
        compare_raters(
            f"{JUDGE_COLUMNS[column]} with people", _compare_with_people(assignment, question, scored, models, scores)
        )
        for column, scores in judge_scores.items()
    )
    return StudyStandings(
        stop=stop if stop.endswith(".") else f"{stop}.",
        advice=advice,
        pairs=tuple(ranking.standings().values()) if ranking is not None else (),
        strengths=strengths,
        effects=effects,
        judges=tuple(_judge(tally, name, categories) for name in sorted(tally.judged) if tally.judged[name]),
        agreement=tuple(machine for machine in (people, *machines) if machine is not None),
        judgments=len(scored),
    )


def fit_strengths(
    duels: Sequence[PairwiseComparison], models: Sequence[str]
) -> tuple[tuple[ModelStanding, ...], dict[str, Strength]]:
    """The models' strengths above the last one's, the strongest first, and what length and mark-up add; nothing while
    some were not compared."""
    from luthier.metrics.bradley_terry import Strength, fit_bradley_terry
    from luthier.metrics.style import STYLE

    if {name for duel in duels for name in duel[:2]} != set(models):
        return (), {}
    try:
        plain = fit_bradley_terry(duels, against=models[-1])
        styled = fit_bradley_terry(duels, against=models[-1], covariates=STYLE)
    except DataError:  # groups that never met
        return (), {}
    model_standings = [ModelStanding(name=name, plain=plain.of[name], styled=styled.of[name]) for name in models]
    twice = {
        name: Strength(value=effect.value / 3, low=effect.low / 3, high=effect.high / 3)
        for name, effect in styled.effects.items()
    }
    return tuple(sorted(model_standings, key=lambda model_standing: -model_standing.plain.value)), twice


def _categories(question: RatingQuestion, scored: Sequence[ScoredRating]) -> dict[str, dict[str, str | float]]:
    """Return ratings by item and annotator, in a form independent of the displayed order."""
    categories: dict[str, dict[str, str | float]] = defaultdict(dict)
    for scored_rating in scored:
        category = question.to_comparable(scored_rating.rating.value, scored_rating.shown)
        categories[scored_rating.rating.item][scored_rating.rating.annotator] = category
    return categories


def _judge(tally: RatingTally, name: str, categories: Mapping[str, Mapping[str, str | float]]) -> JudgeStanding:
    annotations = [rating for rating in tally.ratings.values() if rating.annotator == name]
    took = [annotation.seconds for annotation in annotations if annotation.seconds is not None]
    alike = [
        category == by_judge[name]
        for by_judge in categories.values()
        if name in by_judge
        for other, category in by_judge.items()
        if other != name
    ]
    return JudgeStanding(
        name=name,
        judged=tally.judged[name],
        seconds=median(took) if took else None,
        attention_checks=tally.attention_checks.get(name),
        agreement=sum(alike) / len(alike) if alike else None,
        counts=name not in tally.left_out,
    )


def _compare_with_people(
    assignment: Assignment,
    question: RatingQuestion,
    scored: Sequence[ScoredRating],
    models: Sequence[str],
    scores: Mapping[tuple[str, str], float],
) -> list[tuple[str, Hashable, Hashable]]:
    """Return for each row and pair of models the row, people's preference, and the judge's."""
    found: list[tuple[str, Hashable, Hashable]] = []
    for a, b in combinations(models, 2):
        for row, points in compute_row_points(assignment, question, scored, between=(a, b)).items():
            if a in points and b in points and (row, a) in scores and (row, b) in scores:
                gaps = points[a] - points[b], scores[row, a] - scores[row, b]
                people, machine = (a if gap > 0 else b if gap < 0 else "tie" for gap in gaps)
                found.append((row, people, machine))
    return found


def compare_raters(name: str, pairs: Sequence[tuple[str, Hashable, Hashable]]) -> RaterAgreement | None:
    """Compute the agreement of two raters; `pairs` has for each comparison its cluster and both ratings."""
    import numpy as np

    from luthier.metrics.intervals import Z95, wilson_interval

    if not pairs:
        return None
    categories = {value: at for at, value in enumerate(dict.fromkeys(label for _, *both in pairs for label in both))}
    clusters = {name: at for at, name in enumerate(dict.fromkeys(cluster for cluster, _, _ in pairs))}
    counts = np.zeros((len(clusters), len(categories), len(categories)))
    for cluster, hashable, other in pairs:
        counts[clusters[cluster], categories[hashable], categories[other]] += 1
    counts /= counts.sum(axis=(1, 2), keepdims=True)  # a row with more judges counts no more than another

    def kappa(sums: np.ndarray) -> np.ndarray:
        shares = sums / sums.sum(axis=(-2, -1), keepdims=True)
        chance = (shares.sum(axis=-1) * shares.sum(axis=-2)).sum(axis=-1)
        same = np.trace(shares, axis1=-2, axis2=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((same - chance) / (1 - chance))

    rows, total = len(clusters), counts.sum(axis=0)
    share = float(np.trace(total) / rows)
    low, high = wilson_interval(share * rows, rows)
    value = float(kappa(total))
    ends: tuple[float | None, float | None] = (None, None)
    if rows > 2 and math.isfinite(value):
        without = kappa(total - counts)
        error = math.sqrt(max(0.0, (rows - 1) * float(np.nanvar(without))))
        ends = max(-1.0, value - Z95 * error), min(1.0, value + Z95 * error)
    return RaterAgreement(
        name=name, share=share, low=low, high=high, kappa=value if math.isfinite(value) else None,
        kappa_low=ends[0], kappa_high=ends[1], rows=rows,
    )  # fmt: skip


def read_judge_scores(evaluation: Artifact) -> dict[str, dict[tuple[str, str], float]]:
    """Read the LLM judges' scores of an evaluation; empty without one."""
    import polars as pl

    from luthier.eval.predictions import PREDICTIONS

    frame = pl.read_parquet(evaluation.path(PREDICTIONS))
    found: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    if "columns" not in frame.columns:
        return found
    for row, model, columns in frame.select("id", "model", "columns").iter_rows():
        for name, value in json.loads(columns or "{}").items():
            if name in JUDGE_COLUMNS and isinstance(value, int | float):
                found[name][row, model] = float(value)
    return found
