"""Metrics of answers about pictures and sounds on cases that their papers and reference programs decide."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from luthier.core.errors import DataError
from luthier.metrics.kinds.errors import Cer, Wer
from luthier.metrics.kinds.vision import Anls, BoxIou, Cider, RelaxedAccuracy, VqaAccuracy, normalize_vqa_answer
from luthier.metrics.metric import Metric


def measure(metric: Metric, prediction: str, *references: str) -> float:
    """One row's value."""
    return metric.measure([prediction], [references]).value


@pytest.mark.parametrize(("same", "share"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_of_ten_people_four_must_agree(same: int, share: float) -> None:
    people = ["two dogs"] * same + [f"other {number}" for number in range(10 - same)]
    assert measure(VqaAccuracy(), "2 Dogs.", *people) == pytest.approx(share)


def test_fewer_people_must_all_agree() -> None:
    assert measure(VqaAccuracy(), "yes", "Yes!") == 1.0
    assert measure(VqaAccuracy(), "yes", "yes", "yes") == 1.0
    assert measure(VqaAccuracy(), "yes", "yes", "no") == 0.5
    assert measure(VqaAccuracy(), "yes", "yes", "yes", "no") == pytest.approx((2 * 0.5 + 1) / 3)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Red-Car", "red car"),
        ("none", "0"),
        ("I don't know", "i dont know"),
        ("1,000 m.", "1000 m"),
        ("3.5 in.", "3.5 in"),
        ("left/ right", "left right"),
    ],
)
def test_what_vqa_overlooks(text: str, normal: str) -> None:
    assert normalize_vqa_answer(text) == normal


def test_anls_counts_what_is_near() -> None:
    assert measure(Anls(), "Invoice  12", "invoice 12") == 1.0
    assert measure(Anls(), "invoice 13", "invoice 12", "bill") == 0.9
    assert measure(Anls(), "voice", "invoice 12") == pytest.approx(0.5)
    assert measure(Anls(), "oice", "invoice 12") == 0.0
    assert measure(Anls(threshold=0), "oice", "invoice 12") == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [("104", "100", 1), ("106", "100", 0), ("10.2%", "0.1", 1), ("Blue", "blue", 1), ("0", "0", 1), ("0.1", "0", 0),
     ("nan", "nan", 1), ("about 100", "100", 0)],
)  # fmt: skip
def test_charts_allow_a_twentieth(prediction: str, reference: str, right: float) -> None:
    assert measure(RelaxedAccuracy(), prediction, reference) == right


def test_boxes_overlap() -> None:
    assert measure(BoxIou(), '{"box": [0, 0, 2, 2]}', "[1, 1, 3, 3]") == pytest.approx(1 / 7)
    assert measure(BoxIou(), "2, 2, 0, 0", "[0, 0, 2, 2]") == 1.0
    assert measure(BoxIou(), "nowhere", "[0, 0, 2, 2]") == 0.0
    assert measure(BoxIou(threshold=0.5), "0, 0, 2, 1.1", "[0, 0, 2, 2]") == 1.0
    with pytest.raises(DataError, match=r"row 1: the reference 'there' is no box"):
        measure(BoxIou(), "0, 0, 1, 1", "there")


def test_cider_is_as_its_formula_says() -> None:
    references: Sequence[Sequence[str]] = [["a red bus"], ["a small dog"], ["two cats"]]
    score = Cider().measure(["a red car", "a small dog", ""], references)
    rare, common = math.log(3), math.log(3 / 2)
    ours, theirs = math.hypot(common, rare, rare), math.hypot(common, rare, rare)
    words = (common**2 + rare**2) / (ours * theirs)
    pairs = rare**2 / (rare**2 * 2)
    assert score.rows == pytest.approx([10 * (words + pairs) / 4, 10 * 3 / 4, 0.0])


def test_error_rates_overlook_what_they_are_told() -> None:
    said, meant = "Um, he's twenty-one [laughs]!", "he is 21"
    assert measure(Wer(), said, meant) > 0.9
    assert measure(Wer(normalizer="english"), said, meant) == 0.0
    assert measure(Cer(normalizer="basic"), "Grüße!", "grüße") == 0.0
    assert "transformers" in Wer(normalizer="basic").signature()
    assert Wer().signature() != Wer(normalizer="basic").signature()
