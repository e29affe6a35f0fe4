"""The quick look at how well words separate classes agrees with the plain classifier itself."""

from __future__ import annotations

import random

import pytest

from luthier.auto.advice.probe import probe_plain_classifier
from luthier.data.suggest.separability import measure_separability
from tiny_models import tickets

WORDS = [f"word{number}" for number in range(400)]


def noisy(count: int, share: float) -> tuple[list[str], list[str]]:
    """Texts of random words with a telling one in a share of them."""
    chance = random.Random(3)
    texts, labels = [], []
    for number in range(count):
        label = f"c{number % 3}"
        told = f"sign{label}" if chance.random() < share else ""
        texts.append(" ".join([*chance.choices(WORDS, k=8), told]))
        labels.append(label)
    return texts, labels


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_it_agrees_with_the_plain_classifier(share: float) -> None:
    texts, labels = noisy(300, share)
    quick, measured = measure_separability(texts, labels), probe_plain_classifier(texts, labels)
    assert quick is not None
    assert measured is not None
    assert max(quick.accuracy.values()) == pytest.approx(max(measured.accuracy.values()), abs=0.1)
    assert quick.macro_f1 == pytest.approx(measured.macro_f1, abs=0.1)
    assert quick == measure_separability(texts, labels)


def test_words_that_decide_separate() -> None:
    rows = tickets(200)
    found = measure_separability([row["message"] for row in rows], [row["category"] for row in rows])
    assert found is not None
    assert found.accuracy[max(found.accuracy)] > 0.95


def test_labels_by_chance_do_not() -> None:
    texts, labels = noisy(300, 0.0)
    found = measure_separability(texts, labels)
    assert found is not None
    assert found.accuracy[max(found.accuracy)] < 0.45
    assert found.confused is not None
    assert 0 < found.confused_share < 1


def test_near_copies_are_not_predicted_from_their_twins() -> None:
    texts, labels = noisy(60, 0.0)
    found = measure_separability(texts * 5, labels * 5)
    assert found is not None
    assert found.rows == 60
    assert found.accuracy[max(found.accuracy)] < 0.7


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        ([], []),
        (["a b"] * 5, ["x", "y", "x", "y", "x"]),
        ([f"text {n}" for n in range(50)], ["one"] * 50),
        (["the same words"] * 50, ["x", "y"] * 25),
        ([""] * 50, ["x", "y"] * 25),
    ],
)
def test_too_little_is_none_or_chance(texts: list[str], labels: list[str]) -> None:
    found = measure_separability(texts, labels)
    assert found is None or found.accuracy[max(found.accuracy)] <= 0.6
