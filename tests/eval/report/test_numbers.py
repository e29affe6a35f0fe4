"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.eval.report import numbers
from luthier.eval.report.facts.fact import Score


@pytest.mark.parametrize(
    ("score", "metric", "said"),
    [
        (Score(value=0.906, low=0.886, high=0.923), "accuracy", "0.906 (0.886–0.923)"),
        (Score(value=-0.02, low=-0.1, high=0.06), "mcc", "−0.020 (−0.100 to 0.060)"),
        (Score(value=31.25, low=29.0, high=33.5), "bleu", "31.2 (29.0–33.5)"),
        (Score(value=12.3456), "perplexity", "12.35"),
        (Score(value=None), "accuracy", "–"),
    ],
)
def test_interval(score: Score, metric: str, said: str) -> None:
    assert numbers.interval(score, metric) == said


def test_signs() -> None:
    assert numbers.signed(0.1) == "+0.100"
    assert numbers.signed(-0.1) == "−0.100"
    assert numbers.number(-0.0001) == "0.000"
    assert numbers.difference(0.081, 0.052, 0.11) == "+0.081 (+0.052 to +0.110)"
    assert numbers.difference(0.081, None, None) == "+0.081"
    assert numbers.difference(0.0004, 0.0001, 0.0007) == "+0.0004 (+0.0001 to +0.0007)"
    assert numbers.difference(0.0004, -0.0001, 0.0009) == "+0.000 (+0.000 to +0.001)"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.234, "0.23 s"), (9.5, "9.5 s"), (59.7, "1 min"), (200, "3 min 20 s"), (7200, "2 h"), (100_000, "1 d 3 h")],
)
def test_duration(seconds: float, said: str) -> None:
    assert numbers.duration(seconds) == said


def test_sizes_counts_shares() -> None:
    assert numbers.size(1_288_490_189) == "1.2 GiB"
    assert numbers.size(12) == "12 B"
    assert numbers.count(10003) == "10,003"
    assert numbers.large(134_515_008) == "134.5 million"
    assert numbers.share(39, 5240) == "0.74 %"
    assert numbers.share(1, 0) == "–"
    assert numbers.listing(["a", "b", "c"]) == "a, b and c"
    assert numbers.probability(0.0004) == "p < 0.001"
    assert numbers.probability(0.031) == "p = 0.031"
    assert numbers.probability(0.0496) == "p = 0.0496"  # p = 0.050 would be none that is called sure
    assert numbers.probability(0.049998) == "p = 0.05000"
    assert numbers.probability(0.0504) == "p = 0.050"
    assert numbers.probability(0.3) == "p = 0.30"
    assert numbers.headed("the tuned model") == "Tuned model"


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_any_number_can_be_said(value: float) -> None:
    said = numbers.number(value)
    assert (said == "–") == (not math.isfinite(value))
    assert "nan" not in said


@given(st.text(), st.integers(2, 50))
def test_clipped_text_keeps_its_limit(text: str, limit: int) -> None:
    cut = numbers.clipped(text, limit)
    assert len(cut) <= limit
    assert cut == text or cut.endswith("…")
