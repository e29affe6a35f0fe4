"""Two evaluations side by side, and one example's story."""

from __future__ import annotations

import pytest

from eval.evaluations import evaluation
from luthier.core.errors import DataError, RecipeError
from luthier.core.store import Store
from luthier.eval.comparison import compare_evaluations
from luthier.eval.predictions import find_example_answers, read_answers
from luthier.metrics.kinds.labels import MacroF1


def test_same_rows_are_compared(store: Store) -> None:
    a = evaluation(store, {"tuned": 0.9, "base": 0.5})
    b = evaluation(store, {"tuned": 0.6, "base": 0.5, "tfidf": 0.7})
    found = compare_evaluations(a, b)
    assert found["rows"] == 90
    accuracy = next(row for row in found["comparisons"] if row["metric"] == "accuracy")
    assert accuracy["difference"] > 0.2
    assert accuracy["low"] > 0
    assert len(found["fixed"]) == min(50, accuracy["fixed"])


def test_other_rows_are_refused(store: Store) -> None:
    with pytest.raises(DataError, match="not about the same rows"):
        compare_evaluations(evaluation(store, {"tuned": 0.9}), evaluation(store, {"tuned": 0.9}, rows=60))


def test_other_ways_of_asking_are_refused(store: Store) -> None:
    a = evaluation(store, {"tuned": 0.9, "base": 0.5})
    with pytest.raises(RecipeError, match="cannot be compared"):
        compare_evaluations(a, evaluation(store, {"tuned": 0.9}, normalize="mean"))


def test_metrics_can_be_computed_again_from_the_rows(store: Store) -> None:
    found = evaluation(store, {"tuned": 0.8, "base": 0.5})
    ids, told = read_answers(found, "base")
    assert len(set(ids)) == 90
    again = MacroF1().measure(told.predictions, told.references, seed=7)
    known = found.read_json("metrics.json")["models"]["base"]["macro_f1"]
    assert (again.value, again.low, again.high) == (known["value"], known["low"], known["high"])


def test_story_of_an_example(store: Store) -> None:
    found = evaluation(store, {"tuned": 0.8, "base": 0.5})
    ids, told = read_answers(found, "tuned")
    story = find_example_answers(found, ids[4])
    assert [one.model for one in story] == ["tuned", "base"]
    assert story[0].prediction == told.predictions[4]
    assert story[0].correct == (story[0].prediction == story[0].reference)
    assert find_example_answers(found, "0" * 16) == []
