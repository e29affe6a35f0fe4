"""What every metric promises: bounds, the best value for perfect answers, an honest interval, no order, a signature."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from documented import undescribed
from luthier.core.component import components_by_kind
from luthier.core.errors import DataError
from luthier.metrics.metric import EvalPredictions, Metric, measure_all
from luthier.metrics.paired import compare_paired

METRICS = components_by_kind(Metric)
KINDS = sorted(METRICS)
PROMISED = (
    "accuracy macro_precision macro_recall macro_f1 micro_f1 weighted_f1 mcc ece brier exact_match token_f1 "
    "bleu chrf ter rouge1 rouge2 rougeL rougeLsum meteor wer cer perplexity"
)


TEXTS = {
    "text": ("the cat sat on the mat", "a dog ran far away today", "rain is falling over town"),
    "number": ("so it is 41 km", "the answer is 1,042", "#### 7"),
    "json": ('{"cat": 1, "on": ["mat", "rug"]}', '{"dog": {"ran": true}}', '["rain", null, 2.5]'),
    "calls": (
        '{"name": "find", "arguments": {"cat": 1}}',
        '[{"name": "run", "arguments": {}}]',
        '{"name": "rain", "arguments": {"over": "town"}}',
    ),
    "box": ("[1, 2, 5, 9]", "x 30 to 44.5, y 3 and 2: 30, 3, 44.5, 2", "(-4, -4, 0, 1)"),
}
"""References of each form that a metric may want."""


def made(kind: str) -> Metric:
    """A metric with its defaults."""
    return METRICS[kind].model_validate({"kind": kind})


def answers(metric: Metric, seed: int = 0, rows: int = 60, right: float = 0.6) -> EvalPredictions:
    """Answers of which about the given share is right, with all columns that the metric reads."""
    chance = random.Random(seed)
    texts = TEXTS[metric.form]
    references = [chance.choice(texts) for _ in range(rows)]
    predictions = [text if chance.random() < right else chance.choice(texts) for text in references]
    columns: dict[str, Any] = {}
    if "label_scores" in metric.needs:
        columns["label_scores"] = [_stated(prediction, texts, right) for prediction in predictions]
    if "logprobs" in metric.needs:
        columns["logprobs"] = [0.0 if right == 1 else -chance.random() * 9 for _ in predictions]
        columns["tokens"] = [6] * rows
    columns["columns"] = {name: _numbers(name, chance, rows) for name in metric.scored}
    return EvalPredictions.of(predictions, references, **columns)


def _numbers(name: str, chance: random.Random, rows: int) -> list[float | None]:
    """What a scorer might have given: programs counted, log-likelihoods, or scores from 0 to 1 with a gap."""
    if name == "programs":
        return [4.0] * rows
    drawn = {"passed": lambda: float(chance.randint(0, 4)), "fluency_logprob": lambda: -chance.random() * 9,
             "fluency_tokens": lambda: 7.0}.get(name, chance.random)  # fmt: skip
    numbers: list[float | None] = [drawn() for _ in range(rows)]
    return numbers if rows < 3 else [None, *numbers[1:]]


def _stated(prediction: str, texts: Sequence[str], right: float) -> dict[str, float]:
    sure = 1.0 if right == 1 else 0.8
    return {text: sure if text == prediction else (1 - sure) / (len(texts) - 1) for text in texts}


def test_names_are_those_that_were_promised() -> None:
    assert set(PROMISED.split()) <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_documented(kind: str) -> None:
    metric = METRICS[kind]
    assert len(metric.summary()) > 20
    assert undescribed(metric) == []
    with pytest.raises(ValidationError):
        metric.model_validate({"kind": kind, "no_such_setting": 1})


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_and_interval(kind: str) -> None:
    metric = made(kind)
    for seed in range(3):
        score = measure_all([metric], answers(metric, seed), seed=1)[0]
        least, most = metric.bounds
        assert least <= score.low <= score.value <= score.high <= most
        assert all(map(math.isfinite, (score.low, score.value, score.high)))
        assert score.low < score.high
        assert len(score.rows) == 60
        assert all(map(math.isfinite, score.rows))


@pytest.mark.parametrize("kind", KINDS)
def test_perfect_answers_have_the_best_value(kind: str) -> None:
    metric = made(kind)
    if not metric.held_against:
        return
    score = measure_all([metric], answers(metric, right=1))[0]
    assert score.value == pytest.approx(metric.bounds[1] if metric.better == "higher" else metric.bounds[0], rel=0.01)
    assert score.low < score.high  # few rows never prove perfection


@pytest.mark.parametrize("kind", KINDS)
def test_better_answers_score_better(kind: str) -> None:
    metric = made(kind)
    if not metric.held_against:
        return
    if kind == "json_valid":  # all of these are JSON, right or wrong
        assert metric.measure(["{}", "{"], ["{}", "{}"]).value == 0.5
        return
    worse, better = (measure_all([metric], answers(metric, right=share))[0].value for share in (0.3, 1))
    assert (better > worse) == (metric.better == "higher")


@pytest.mark.parametrize("kind", KINDS)
def test_order_changes_nothing(kind: str) -> None:
    metric = made(kind)
    told = answers(metric)
    order = random.Random(1).sample(range(len(told)), len(told))
    one, other = measure_all([metric], told, seed=3)[0], measure_all([metric], told.select(order), seed=3)[0]
    for name in ("value", "low", "high"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-9), name
    assert one.rows[order] == pytest.approx(other.rows)


@pytest.mark.parametrize("kind", KINDS)
def test_alone_and_among_others_are_the_same(kind: str) -> None:
    metric = made(kind)
    told = answers(metric)
    alone = measure_all([metric], told, seed=5)[0]
    among = measure_all([made("rougeL"), metric, made("macro_f1")], told, seed=5)[1]
    assert (alone.value, alone.low, alone.high) == (among.value, among.low, among.high)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2])
def test_very_few_rows(kind: str, rows: int) -> None:
    metric = made(kind)
    for share in (0, 1):
        score = measure_all([metric], answers(metric, rows=rows, right=share))[0]
        assert score.low <= score.value <= score.high
        assert all(map(math.isfinite, (score.low, score.value, score.high)))
        assert score.low < score.high


@pytest.mark.parametrize("kind", KINDS)
def test_empty_texts(kind: str) -> None:
    metric = made(kind)
    told = answers(metric)
    for references in (told.references, [("",)] * len(told)):
        empty = EvalPredictions(
            predictions=[""] * len(told),
            references=references,
            label_scores=told.label_scores,
            logprobs=told.logprobs,
            tokens=told.tokens,
            columns=told.columns,
        )
        if not references[0][0] and metric.form in ("number", "json", "box") and kind != "json_valid":
            with pytest.raises(
                DataError, match=r"row 1: .*reference"
            ):  # an empty text is no number, no JSON and no box
                measure_all([metric], empty)
            continue
        score = measure_all([metric], empty)[0]
        assert all(map(math.isfinite, (score.low, score.value, score.high)))


@pytest.mark.parametrize("kind", KINDS)
def test_signature_tells_settings_apart(kind: str) -> None:
    metric = made(kind)
    assert metric.signature() == made(kind).signature()
    assert metric.signature().startswith(f"{kind}|v:{metric.version}|")
    assert "interval:" in metric.signature()


@pytest.mark.parametrize("kind", KINDS)
def test_compared_with_itself_there_is_no_difference(kind: str) -> None:
    metric = made(kind)
    told = answers(metric)
    same = compare_paired(metric, told, told)
    assert (same.difference, same.p, same.fixed, same.broken) == (0.0, 1.0, 0, 0)
    assert same.low < 0 < same.high


@pytest.mark.parametrize("kind", KINDS)
def test_comparison_is_turned_round(kind: str) -> None:
    metric = made(kind)
    a, b = answers(metric, right=0.5), answers(metric, right=0.9)
    b = EvalPredictions(**{**vars(b), "references": a.references})
    there, back = compare_paired(metric, a, b), compare_paired(metric, b, a)
    assert there.difference == pytest.approx(-back.difference)
    assert (there.fixed, there.broken) == (back.broken, back.fixed)
    assert there.low <= there.difference <= there.high
    assert there.p == pytest.approx(back.p, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_lacking_is_named(kind: str) -> None:
    metric = made(kind)
    with pytest.raises(DataError, match="no rows"):
        metric.measure([], [])
    with pytest.raises(DataError, match="reference"):
        metric.measure(["a", "b"], ["a", None])  # type: ignore[list-item]  # the mistake that is tested
    if metric.needs or metric.scored:
        with pytest.raises(DataError, match="needs"):
            metric.measure(["a", "b"], ["a", "b"])
