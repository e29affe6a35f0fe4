"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.eval.report import formatting
from luthier.eval.report.facts.fact import ScoreFact


@pytest.mark.parametrize(
    ("score", "metric", "said"),
    [
        (ScoreFact(value=0.906, low=0.886, high=0.923), "accuracy", "0.906 (0.886–0.923)"),
        (ScoreFact(value=-0.02, low=-0.1, high=0.06), "mcc", "−0.020 (−0.100 to 0.060)"),
        (ScoreFact(value=31.25, low=29.0, high=33.5), "bleu", "31.2 (29.0–33.5)"),
        (ScoreFact(value=12.3456), "perplexity", "12.35"),
        (ScoreFact(value=None), "accuracy", "–"),
    ],
)
def test_interval(score: ScoreFact, metric: str, said: str) -> None:
    assert formatting.format_score_interval(score, metric) == said


def test_signs() -> None:
    assert formatting.format_signed(0.1) == "+0.100"
    assert formatting.format_signed(-0.1) == "−0.100"
    assert formatting.format_number(-0.0001) == "0.000"
    assert formatting.format_difference(0.081, 0.052, 0.11) == "+0.081 (+0.052 to +0.110)"
    assert formatting.format_difference(0.081, None, None) == "+0.081"
    assert formatting.format_difference(0.0004, 0.0001, 0.0007) == "+0.0004 (+0.0001 to +0.0007)"
    assert formatting.format_difference(0.0004, -0.0001, 0.0009) == "+0.000 (+0.000 to +0.001)"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.234, "0.23 s"), (9.5, "9.5 s"), (59.7, "1 min"), (200, "3 min 20 s"), (7200, "2 h"), (100_000, "1 d 3 h")],
)
def test_duration(seconds: float, said: str) -> None:
    assert formatting.format_duration_words(seconds) == said


def test_sizes_counts_shares() -> None:
    assert formatting.format_byte_size(1_288_490_189) == "1.2 GiB"
    assert formatting.format_byte_size(12) == "12 B"
    assert formatting.format_thousands(10003) == "10,003"
    assert formatting.format_large_number(134_515_008) == "134.5 million"
    assert formatting.format_percentage(39, 5240) == "0.74 %"
    assert formatting.format_percentage(1, 0) == "–"
    assert formatting.join_words(["a", "b", "c"]) == "a, b and c"
    assert formatting.format_p_value(0.0004) == "p < 0.001"
    assert formatting.format_p_value(0.031) == "p = 0.031"
    assert formatting.format_p_value(0.0496) == "p = 0.0496"  # p = 0.050 would be none that is called sure
    assert formatting.format_p_value(0.049998) == "p = 0.05000"
    assert formatting.format_p_value(0.0504) == "p = 0.050"
    assert formatting.format_p_value(0.3) == "p = 0.30"
    assert formatting.capitalize_title("the tuned model") == "Tuned model"


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_any_number_can_be_said(value: float) -> None:
    said = formatting.format_number(value)
    assert (said == "–") == (not math.isfinite(value))
    assert "nan" not in said


@given(st.text(), st.integers(2, 50))
def test_clipped_text_keeps_its_limit(text: str, limit: int) -> None:
    cut = formatting.truncate_text(text, limit)
    assert len(cut) <= limit
    assert cut == text or cut.endswith("…")
