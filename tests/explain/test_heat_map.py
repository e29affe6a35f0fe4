"""Scores are written so that they differ where the parts of a prompt do."""

from __future__ import annotations

import pytest

from luthier.artifacts.explanation import ExplainedUnit, ExplanationRecord, ExplanationTarget
from luthier.explain.heat_map import format_explanation


@pytest.mark.parametrize(
    ("strongest", "written"),
    [(0.5, ["+0.500", "-0.250"]), (4.2e-4, ["+0.00042", "-0.00021"]), (2e-9, ["+2.0e-09", "-1.0e-09"])],
)
def test_small_scores_are_not_written_as_zero(strongest: float, written: list[str]) -> None:
    """A model that is sure of its answer gave "+0.000" beside every word."""
    units = [
        ExplainedUnit(text=text, message=0, role="user", start=at, end=at + 1, tokens=1, score=score)
        for at, (text, score) in enumerate((("back", strongest), ("please", -strongest / 2)))
    ]
    record = ExplanationRecord(
        model="tune", digest="0" * 32, method="leave_one_out", settings={}, unit="words", value=-0.001, without=-3.0,
        target=ExplanationTarget(kind="answer", text="REFUND"), units=tuple(units),
    )  # fmt: skip
    lines = list(format_explanation(record))
    assert [line.split()[0] for line in lines if line.endswith(("back", "please")) and "user" not in line] == written
