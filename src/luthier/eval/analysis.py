"""From replies to facts: scores, paired comparisons, confusion, classes, calibration, slices, flips, samples.

The facts are those that the report shows; nothing here needs a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.chat.messages import user_text_of
from luthier.eval.evaluator import ModelResult
from luthier.eval.report.facts import models as facts
from luthier.eval.report.facts.fact import ScoreFact
from luthier.eval.task import HeldOutTask, get_conversation_id
from luthier.metrics.metric import EvalPredictions, Metric, measure_all
from luthier.metrics.metric import MetricResult as Measured
from luthier.metrics.paired import PairedComparison, adjust_comparisons_holm, compare_paired

if TYPE_CHECKING:
    from luthier.chat.messages import Example

SHOWN = 50
"""Rows kept of each kind of flip, and samples."""
BINS = 10
"""Bins of the reliability picture."""
SLICE_ROWS = 10
"""Minimum rows of a slice."""
SLICE_VALUES = 12
"""A column with more different values is not a slicing."""
SLICE_COLUMNS = 8
_SENSIBLE = (str, bool, int)


def select_applicable_metrics(metrics: Sequence[Metric], answers: EvalPredictions) -> list[Metric]:
    """The metrics for which a model's answers have all columns (a baseline has no log-likelihoods)."""
    return [metric for metric in metrics if not metric.lacks(answers)]


def compute_model_scores(
    metrics: Sequence[Metric], answers: Mapping[str, EvalPredictions], seed: int
) -> dict[str, dict[str, Measured]]:
    """Each model's score in each metric."""
    found = {}
    for name, model_answers in answers.items():
        mine = select_applicable_metrics(metrics, model_answers)
        measured = measure_all(mine, model_answers, seed=seed)
        found[name] = {metric.kind: score for metric, score in zip(mine, measured, strict=True)}
    return found


def compare_with_models(
    metrics: Sequence[Metric], answers: Mapping[str, EvalPredictions], subject: str, seed: int
) -> list[dict[str, Any]]:
    """The subject against every other model in every metric.

    Holm's correction goes over two families: the comparisons in the main metric, which the verdict rests on, and those
    in all other metrics.
    """
    usable = select_applicable_metrics(metrics, answers[subject])
    families = {"main": usable[:1], "others": usable[1:]}
    found = []
    for family, mine in families.items():
        pairs = [
            (other, metric)
            for other in answers
            if other != subject
            for metric in select_applicable_metrics(mine, answers[other])
        ]
        compared = adjust_comparisons_holm(
            [compare_paired(metric, answers[subject], answers[other], seed=seed) for other, metric in pairs]
        )
        for (other, _), comparison in zip(pairs, compared, strict=True):
            found.append({"a": subject, "b": other, "family": family, **comparison.as_json()})
    return found


def comparison_facts(rows: Sequence[Mapping[str, Any]]) -> tuple[facts.ComparisonFact, ...]:
    """The comparisons as the report knows them."""
    known = facts.ComparisonFact.model_fields
    return tuple(facts.ComparisonFact(**{name: value for name, value in row.items() if name in known}) for row in rows)


def score_to_fact(score: Measured) -> ScoreFact:
    """A score as the report knows it."""
    return ScoreFact(value=score.value, low=score.low, high=score.high, signature=score.signature)


def count_confusions(task: HeldOutTask, models: Sequence[ModelResult]) -> tuple[facts.ConfusionMatrix, ...]:
    """Count how often each label was predicted for each."""
    found = []
    for model in models:
        pairs = Counter(zip(task.references, (reply.prediction for reply in model.replies), strict=True))
        counts = tuple(tuple(pairs[real, predicted] for predicted in task.labels) for real in task.labels)
        found.append(facts.ConfusionMatrix(model=model.name, labels=tuple(task.labels), counts=counts))
    return tuple(found)


def compute_class_f1(task: HeldOutTask, models: Sequence[ModelResult]) -> tuple[facts.ClassScore, ...]:
    """F1 of each label with its interval, for each model."""
    real = Counter(task.references)
    found = []
    for model in models:
        predictions = [reply.prediction for reply in model.replies]
        predicted = Counter(predictions)
        right = Counter(label for label, true in zip(predictions, task.references, strict=True) if label == true)
        for label in task.labels:
            score = _f1(right[label], predicted[label], real[label])
            found.append(facts.ClassScore(label=label, model=model.name, rows=real[label], f1=score))
    return tuple(found)


def _f1(right: int, predicted: int, real: int) -> ScoreFact:
    """Return F1 with Wilson's interval: it is 2 j / (1 + j) of j, the share of correct rows among those predicted or
    real.
    """
    from luthier.metrics.intervals import wilson_interval

    either = predicted + real - right
    if either == 0:
        return ScoreFact(value=0.0, low=0.0, high=1.0)
    low, high = wilson_interval(right, either)
    value, low, high = (2 * share / (1 + share) for share in (right / either, low, high))
    return ScoreFact(value=value, low=low, high=high)


def compute_reliability_bins(
    answers: Mapping[str, EvalPredictions], measured: Mapping[str, Mapping[str, Measured]]
) -> tuple[facts.ReliabilityFacts, ...]:
    """Return stated probabilities with the accuracy, in bins of equal width."""
    import numpy as np

    from luthier.metrics.intervals import wilson_interval
    from luthier.metrics.kinds.calibration import compute_confidences

    found = []
    for model, model_answers in answers.items():
        if model_answers.label_scores is None:
            continue
        confidence, right = compute_confidences(model_answers)
        bin_indices = np.minimum((confidence * BINS).astype(int), BINS - 1)
        bins = []
        for index in sorted(set(bin_indices.tolist())):
            inside = bin_indices == index
            count, hits = int(inside.sum()), float(right[inside].sum())
            low, high = wilson_interval(hits, count)
            bins.append(
                facts.CalibrationBin(
                    low=index / BINS,
                    high=(index + 1) / BINS,
                    confidence=float(confidence[inside].mean()),
                    accuracy=ScoreFact(value=hits / count, low=low, high=high),
                    rows=count,
                )
            )
        ece = measured[model].get("ece")
        found.append(facts.ReliabilityFacts(model=model, bins=tuple(bins), ece=score_to_fact(ece) if ece else None))
    return tuple(found)


def compute_slice_scores(
    columns: Mapping[str, Sequence[Any]],
    metric: Metric,
    answers: Mapping[str, EvalPredictions],
    seed: int,
    *,
    subject: str,
    rival: str | None,
) -> tuple[facts.SliceFact, ...]:
    """The main metric on the rows of each value of each slicing column, for each model whose answers have what it
    reads; and what the subject gained."""
    answers = {
        model: model_answers
        for model, model_answers in answers.items()
        if select_applicable_metrics([metric], model_answers)
    }
    rival = rival if {subject, rival} <= answers.keys() else None
    slice_facts: list[facts.SliceFact] = []
    gains: list[PairedComparison] = []
    for name, values in columns.items():
        groups: dict[str, list[int]] = {}
        for row, value in enumerate(values):
            if value is not None:
                groups.setdefault(str(value), []).append(row)
        for value, rows in sorted(groups.items()):
            if len(rows) < SLICE_ROWS:
                continue
            for model, model_answers in answers.items():
                score = measure_all([metric], model_answers.select(rows), seed=seed)[0]
                slice_facts.append(
                    facts.SliceFact(
                        name=name,
                        value=value,
                        model=model,
                        metric=metric.kind,
                        rows=len(rows),
                        score=score_to_fact(score),
                    )
                )
            if rival is not None:
                gains.append(
                    compare_paired(metric, answers[subject].select(rows), answers[rival].select(rows), seed=seed)
                )
    return _with_gains(slice_facts, gains, subject, rival)


def _with_gains(
    slices: Sequence[facts.SliceFact], gains: Sequence[PairedComparison], subject: str, rival: str | None
) -> tuple[facts.SliceFact, ...]:
    """The slices, those of the subject with their gains in order."""
    comparisons = iter(
        comparison_facts(
            [{"a": subject, "b": rival, **comparison.as_json()} for comparison in adjust_comparisons_holm(gains)]
        )
    )
    return tuple(
        slice_fact.model_copy(update={"gain": next(comparisons, None)}) if slice_fact.model == subject else slice_fact
        for slice_fact in slices
    )


def find_slicing_columns(
    examples: Sequence[Example], attributes: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[Any]]:
    """Columns by which rows can be sliced: of the source or written by an operator, with few values."""
    names = sorted({name for example in examples for name in example.meta})
    columns = {name: [example.meta.get(name) for example in examples] for name in names}
    for name, values in attributes.items():
        columns.setdefault(name, [values.get(get_conversation_id(example.id)) for example in examples])
    usable = {name: values for name, values in columns.items() if _few(values)}
    return dict(list(usable.items())[:SLICE_COLUMNS])


def _few(values: Sequence[Any]) -> bool:
    present = [value for value in values if value is not None]
    counts = Counter(str(value) for value in present)
    large = [value for value, count in counts.items() if count >= SLICE_ROWS]
    return all(isinstance(value, _SENSIBLE) for value in present) and len(counts) <= SLICE_VALUES and len(large) >= 2


def row_facts(task: HeldOutTask, models: Sequence[ModelResult], rows: Sequence[int]) -> tuple[facts.RowFact, ...]:
    """Some rows with every model's answer."""
    correct = {model.name: task.correct(model.replies) for model in models}
    references = task.references
    return tuple(
        facts.RowFact(
            id=task.examples[row].id,
            text=user_text_of(task.examples[row]),
            reference=references[row],
            answers={model.name: model.replies[row].prediction for model in models},
            correct={name: values[row] for name, values in correct.items()},
        )
        for row in rows
    )


def find_flipped_rows(task: HeldOutTask, a: ModelResult, b: ModelResult) -> tuple[list[int], list[int]]:
    """Rows that `b` had wrong and `a` has right, and the other way round (labels only)."""
    mine, its = task.correct(a.replies), task.correct(b.replies)
    fixed = [row for row, (now, before) in enumerate(zip(mine, its, strict=True)) if now and before is False]
    broken = [row for row, (now, before) in enumerate(zip(mine, its, strict=True)) if before and now is False]
    return fixed, broken


def pick_evenly_spaced_rows(rows: int, requested: int) -> list[int]:
    """Pick a number of rows that are spread evenly over all rows."""
    count = min(rows, requested)
    return [index * rows // count for index in range(count)]
