"""Calibrate label sets on held-out rows, and measure how often they hold the right label."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from luthier.artifacts.decisions import ClassCoverage, ConformalScore, ConformalSummary, ConformalThreshold, LabelSet
from luthier.chat.messages import prompt_of
from luthier.core.errors import DataError
from luthier.core.events import format_counted_noun
from luthier.explain.measures import compute_mean, compute_share
from luthier.metrics.conformal import (
    bound_coverage,
    build_conformal_scorer,
    calibrate,
    normalize_rows,
    select_labels,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from luthier.chat.messages import Example
    from luthier.explain.decisions.classifier import LabelScorer

SHOWN = 20


class LabelScores(NamedTuple):
    """Rows with their right label and a model's log-score of each label."""

    ids: Sequence[str]
    truth: NDArray[np.int64]
    """(rows,) number of the right label."""
    log_scores: NDArray[np.float64]
    """(rows, labels)."""


class ConformalSettings(NamedTuple):
    """Settings of conformal label sets."""

    level: float = 0.9
    score: ConformalScore = "lac"
    by_class: bool = False
    penalty: float = 0.01
    free_labels: int = 2


def fit_label_sets(
    model: tuple[str, str],
    labels: Sequence[str],
    rows: tuple[LabelScores, LabelScores],
    settings: ConformalSettings,
    *,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> tuple[ConformalSummary, list[LabelSet]]:
    """Calibrate on the first rows and measure on the second; `model` is its name and digest.

    Raises:
        DataError: no rows to calibrate with, or to measure.
    """
    known, measured = rows
    if not len(known.truth) or not len(measured.truth):
        what = "there are no rows to calibrate label sets with" if not len(known.truth) else "no row is left to measure"
        raise DataError(what, hint="hold more rows out: `split: {validation: 0.2, test: 0.2}`")
    scorer = build_conformal_scorer(settings.score, settings.penalty, settings.free_labels)
    probabilities = normalize_rows(known.log_scores), normalize_rows(measured.log_scores)
    thresholds = calibrate(scorer.score(probabilities[0]), known.truth, settings.level, by_class=settings.by_class)
    chosen = select_labels(scorer.score(probabilities[1]), thresholds)
    truth = measured.truth
    sizes, held = chosen.sum(1), chosen[np.arange(len(truth)), truth]
    right = probabilities[1].argmax(1) == truth
    single = sizes == 1
    classes = [
        ClassCoverage(
            label=label,
            coverage=compute_share(int(held[truth == number].sum()), int((truth == number).sum())),
            size=float(sizes[truth == number].mean()),
        )
        for number, label in enumerate(labels)
        if (truth == number).any()
    ]
    measures = {
        "coverage": compute_share(int(held.sum()), len(truth)),
        "size": compute_mean(sizes.astype(float).tolist(), seed),
        "single": compute_share(int(single.sum()), len(truth)),
        "accuracy": compute_share(int(right.sum()), len(truth)),
        "worst_class": min((each.coverage for each in classes), key=lambda coverage: (coverage.value, coverage.low)),
    }
    if single.any():
        measures["single_accuracy"] = compute_share(int(held[single].sum()), int(single.sum()))
    low, high = bound_coverage(len(known.truth), settings.level)
    sets = [
        LabelSet(
            row=row,
            labels=tuple(label for label, inside in zip(labels, own, strict=True) if inside),
            reference=labels[answer],
        )
        for row, own, answer in zip(measured.ids, chosen, truth, strict=True)
    ]
    summary = ConformalSummary(
        model=model[0],
        digest=model[1],
        rows=len(truth),
        sentence="",
        notes=(*notes, *_notes(labels, known, thresholds, settings)),
        measures=measures,
        labels=tuple(labels),
        score=settings.score,
        level=settings.level,
        by_class=settings.by_class,
        penalty=scorer.penalty,
        free_labels=scorer.free_labels,
        thresholds=_describe_thresholds(labels, known, thresholds, by_class=settings.by_class),
        expected_low=low,
        expected_high=high,
        classes=tuple(classes),
        sizes=dict(sorted(Counter(sizes.tolist()).items())),
        uncertain=tuple(one for one in sets if len(one.labels) != 1)[:SHOWN],
    )
    return summary.model_copy(update={"sentence": _summarize(summary)}), sets


def score_rows(model: LabelScorer, examples: Sequence[Example]) -> LabelScores:
    """Ask a model about the rows that have one of its labels."""
    numbers = {label: number for number, label in enumerate(model.labels)}
    known = [example for example in examples if example.label in numbers]
    truth = np.array([numbers[str(example.label)] for example in known], dtype=np.int64)
    scores = model.compute_log_scores([(prompt_of(example), example.tools) for example in known])
    return LabelScores([example.id for example in known], truth, scores)


def split_rows(rows: LabelScores) -> tuple[LabelScores, LabelScores]:
    """Two halves by the digests of the rows' ids, so that neither order nor number of rows matters."""
    from luthier.core.hashing import digest_of

    ranks = sorted(range(len(rows.ids)), key=lambda at: digest_of(["conformal", rows.ids[at]]))
    halves = sorted(ranks[: len(ranks) // 2]), sorted(ranks[len(ranks) // 2 :])
    one, other = (
        LabelScores([rows.ids[at] for at in half], rows.truth[half], rows.log_scores[half]) for half in halves
    )
    return one, other


def _describe_thresholds(
    labels: Sequence[str], known: LabelScores, thresholds: NDArray[np.float64], *, by_class: bool
) -> tuple[ConformalThreshold, ...]:
    values = [None if math.isinf(value) else float(value) for value in thresholds]
    if not by_class:
        return (ConformalThreshold(value=values[0], rows=len(known.truth)),)
    return tuple(
        ConformalThreshold(label=label, value=value, rows=int((known.truth == number).sum()))
        for number, (label, value) in enumerate(zip(labels, values, strict=True))
    )


def _notes(
    labels: Sequence[str], known: LabelScores, thresholds: NDArray[np.float64], settings: ConformalSettings
) -> list[str]:
    always = [label for label, value in zip(labels, thresholds, strict=True) if math.isinf(value)]
    if not always:
        return []
    needed = math.ceil(settings.level / (1 - settings.level) - 1e-9)
    which = "Every label" if len(always) == len(labels) else ", ".join(always)
    return [
        f"{which} stands in every set: {settings.level:.0%} needs at least {needed} rows to calibrate with"
        f"{' of each class' if settings.by_class else f', and there are {len(known.truth)}'}"
    ]


def _summarize(summary: ConformalSummary) -> str:
    coverage, size, single = (summary.measures[name] for name in ("coverage", "size", "single"))
    kept = "keeps" if coverage.high >= summary.level else "does NOT keep"
    text = (
        f"{summary.model} {kept} the promised {summary.level:.0%}: {coverage.value:.1%} of "
        f"{format_counted_noun(summary.rows, 'row')} have the right label in their set (95 % interval "
        f"{coverage.low:.1%} to {coverage.high:.1%}); a set has {size.value:.2f} labels, and {single.value:.0%} of "
        "rows have one"
    )
    if answered := summary.measures.get("single_accuracy"):
        text += f", of which {answered.value:.1%} are right, instead of {summary.measures['accuracy'].value:.1%} of all"
    return f"{text}."
