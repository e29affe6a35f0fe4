"""Distinct runs and self-BLEU, against sacrebleu and plain counting."""

from __future__ import annotations

import random

import numpy as np
import pytest

from luthier.metrics.kinds.diversity import Distinct, SelfBleu
from luthier.metrics.kinds.likelihood import BitsPerByte
from luthier.metrics.metric import EvalPredictions

WORDS = [f"w{number}" for number in range(12)]


def sentences(seed: int, rows: int = 25) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(0, 14))) for _ in range(rows)]


@pytest.mark.parametrize("seed", range(4))
def test_self_bleu_is_sacrebleus_against_all_others(seed: int) -> None:
    from sacrebleu.metrics.bleu import BLEU

    said = sentences(seed)
    peer = BLEU(effective_order=False)
    wanted = [
        peer.corpus_score([text], [[other] for place, other in enumerate(said) if place != row]).score
        for row, text in enumerate(said)
    ]
    assert SelfBleu().of_rows(said) == pytest.approx(wanted, abs=1e-9)
    assert SelfBleu().measure(said, said).value == pytest.approx(sum(wanted) / len(wanted), abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_distinct_by_counting(n: int) -> None:
    said = sentences(7)
    runs = [tuple(text.split()[i : i + n]) for text in said for i in range(len(text.split()) - n + 1)]
    assert Distinct(n=n).measure(said, said).value == pytest.approx(len(set(runs)) / len(runs))


def test_extremes() -> None:
    alike, different = ["the same old words again"] * 10, [f"a{n} b{n} c{n} d{n}" for n in range(10)]
    assert SelfBleu().measure(alike, alike).value == pytest.approx(100)
    assert SelfBleu().measure(different, different).value == 0
    assert Distinct().measure(different, different).value == 1
    assert Distinct().measure(alike, alike).value == pytest.approx(1 / 10)
    assert "no answer has 2 words" in Distinct().measure(["one", ""], ["", ""]).note


def test_bits_per_byte() -> None:
    found = BitsPerByte().measure(["", ""], ["abcd", "é"], logprobs=[-2.0, -1.0]).value
    assert found == pytest.approx(3 / 0.6931471805599453 / 6)


@pytest.mark.parametrize("seed", range(3))
def test_pulls_of_self_bleu_are_those_of_leaving_rows_out(seed: int) -> None:
    chance = random.Random(seed)
    said = [" ".join(chance.choices(WORDS, k=9)) for _ in range(15)]  # one length: lengths are left aside
    metric = SelfBleu()
    without = np.array([metric.of_rows(said[:row] + said[row + 1 :]).mean() for row in range(15)])
    pulls = metric.pulled(EvalPredictions.of(said, said)).pulls
    assert pulls == pytest.approx(14 * (without.mean() - without), abs=1e-9)
