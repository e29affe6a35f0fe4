"""Colours: letters and marks can be told from their ground, on paper and in the dark (WCAG 2.2, AA)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.eval.report.palette import DARK, HEAT, LIGHT, MARK_PAIRS, TEXT_PAIRS, blend, build_heat_colors, contrast

SCHEMES = {"light": LIGHT, "dark": DARK}
colours = st.integers(0, 0xFFFFFF).map(lambda value: f"#{value:06x}")


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)
    assert contrast("#ff0000", "#ffffff") == pytest.approx(4.0, abs=0.005)


@given(colours, colours)
def test_contrast_is_symmetric_and_bounded(one: str, other: str) -> None:
    assert contrast(one, other) == contrast(other, one)
    assert 1 <= contrast(one, other) <= 21.0001
    assert blend(one, other, 0) == one
    assert blend(one, other, 1) == other


@pytest.mark.parametrize("scheme", SCHEMES)
def test_letters_can_be_read(scheme: str) -> None:
    poor = [pair for pair in TEXT_PAIRS if contrast(*(SCHEMES[scheme][name] for name in pair)) < 4.5]
    assert poor == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_marks_can_be_seen(scheme: str) -> None:
    poor = [pair for pair in MARK_PAIRS if contrast(*(SCHEMES[scheme][name] for name in pair)) < 3]
    assert poor == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_counts_in_a_heat_table_can_be_read(scheme: str) -> None:
    steps = build_heat_colors(SCHEMES[scheme])
    assert len(steps) == len(HEAT)
    assert [step for step in steps if contrast(*step) < 4.5] == []
