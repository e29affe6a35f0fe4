"""Intervals of metrics over sites, from sums alone."""

from __future__ import annotations

import random
from typing import Any

import numpy
import pytest

from luthier.federated.measure import SPARE_ROWS, pool_sums, sum_products, sum_statistics
from luthier.metrics.metric import EvalPredictions, Metric

WORDS = ["parcel", "invoice", "refund", "account", "delivery", "late", "lost", "paid"]


def answer(count: int, seed: int) -> EvalPredictions:
    """Texts that are right in part."""
    chance = random.Random(seed)
    references = [" ".join(chance.choices(WORDS, k=6)) for _ in range(count)]
    predictions = [" ".join(word if chance.random() < 0.7 else "other" for word in text.split()) for text in references]
    return EvalPredictions.of(predictions, references)


def classify(count: int, seed: int) -> EvalPredictions:
    chance = random.Random(seed)
    right = [chance.choice("abc") for _ in range(count)]
    return EvalPredictions.of([label if chance.random() < 0.7 else chance.choice("abc") for label in right], right)


@pytest.mark.parametrize(
    ("kind", "make", "classes"), [("rougeL", answer, []), ("token_f1", answer, []), ("macro_f1", classify, list("abc"))]
)
def test_means_and_ratios_have_the_intervals_of_the_pooled_rows(kind: str, make: Any, classes: list[str]) -> None:
    metric = Metric.parse(kind)
    sites = {"north": make(60, 1), "south": make(90, 2)}
    sums = {name: sum_statistics(metric, own, classes) for name, own in sites.items()}
    products = {name: sum_products(metric, own, classes) for name, own in sites.items()}
    found = pool_sums(metric, sums, {name: len(own) for name, own in sites.items()}, products)
    whole = metric.measure(*pooled(sites))
    assert found["value"] == pytest.approx(whole.value)
    assert found["high"] - found["low"] == pytest.approx(whole.high - whole.low, rel=0.2), "of a bootstrap"
    assert found["low"] < whole.value < found["high"]
    for name, own in sites.items():
        alone = metric.measure(own.predictions, own.references)
        assert found["sites"][name]["low"] == pytest.approx(alone.low, abs=0.04)
        assert found["sites"][name]["high"] == pytest.approx(alone.high, abs=0.04)


def pooled(sites: dict[str, EvalPredictions]) -> tuple[list[str], list[Any]]:
    return (
        [text for own in sites.values() for text in own.predictions],
        [text for own in sites.values() for text in own.references],
    )


def test_a_mean_has_the_standard_error_of_its_rows() -> None:
    metric, own = Metric.parse("token_f1"), answer(80, 3)
    rows = [
        metric.measure([text], [reference]).value
        for text, reference in zip(own.predictions, own.references, strict=True)
    ]
    found = pool_sums(
        metric, {"north": sum_statistics(metric, own, [])}, {"north": 80}, {"north": sum_products(metric, own, [])}
    )
    half = 1.959964 * numpy.std(rows, ddof=1) / numpy.sqrt(80)
    assert found["high"] - found["value"] == pytest.approx(half, rel=1e-4)


def test_few_rows_have_no_products_and_no_interval() -> None:
    metric, own = Metric.parse("token_f1"), answer(SPARE_ROWS, 3)
    assert sum_products(metric, own, []) == []
    found = pool_sums(metric, {"north": sum_statistics(metric, own, [])}, {"north": SPARE_ROWS}, {"north": []})
    assert "low" not in found
