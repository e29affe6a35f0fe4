"""What rules and conditions mean, and what errors say of wrong ones."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.expressions import (
    TIME_UNITS,
    ExpressionError,
    ExpressionToken,
    ExpressionVocabulary,
    ThresholdExpression,
    Window,
    format_duration,
    parse_duration,
    parse_expression,
)

WINDOWS = {"accuracy": Window(events=200), "latency.p95": Window(seconds=3600), "rougeL": Window(events=50)}


class TrafficVocabulary(ExpressionVocabulary):
    """Three numbers with windows, and a report."""

    def find_name(self, token: ExpressionToken) -> str:
        return token.match(WINDOWS, "number")

    def find_reference(self, token: ExpressionToken) -> str:
        return token.match(("report",), "reference")

    def default_window(self, name: str) -> Window:
        return WINDOWS[name]


class PlainVocabulary(TrafficVocabulary):
    """The same numbers, one of them from 0 to 100, without windows; findings can be counted."""

    def severities(self, token: ExpressionToken) -> tuple[str, ...]:
        return ("serious", "warning")

    def scale(self, name: str) -> float:
        return 100.0 if name == "rougeL" else 1.0

    def default_window(self, name: str) -> Window:
        return Window()


def parse(text: str) -> ThresholdExpression:
    return parse_expression(text, TrafficVocabulary())


@pytest.mark.parametrize(
    ("text", "name", "sign", "reference", "margin", "window"),
    [
        ("accuracy < 0.9 on 200 labels", "accuracy", "<", None, 0.9, Window(events=200)),
        ("accuracy < 90%", "accuracy", "<", None, 0.9, Window(events=200)),
        ("latency.p95 > 2 over 10m", "latency.p95", ">", None, 2.0, Window(seconds=600)),
        ("latency.p95>=2.5 over 1.5h", "latency.p95", ">=", None, 2.5, Window(seconds=5400)),
        ("accuracy < report - 0.03", "accuracy", "<", "report", -0.03, Window(events=200)),
        ("accuracy < report - 3% on 50 ratings", "accuracy", "<", "report", -0.03, Window(events=50)),
        ("accuracy <= report", "accuracy", "<=", "report", 0.0, Window(events=200)),
        ("Rouge_L < -1", "rougeL", "<", None, -1.0, Window(events=50)),
        ("accuracy > 1e-3 over 1d", "accuracy", ">", None, 0.001, Window(seconds=86400)),
    ],
)
def test_a_condition_is_read(
    text: str, name: str, sign: str, reference: str | None, margin: float, window: Window
) -> None:
    assert parse(text) == (name, sign, reference, margin, window)


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("", 1, "expected a number"),
        ("acuracy < 1", 1, "did you mean 'accuracy'"),
        ("accuracy = 1", 10, "has no meaning"),
        ("accuracy < base", 12, "known: report"),
        ("accuracy < 0.9 on labels", 19, "expected a number"),
        ("accuracy < 0.9 on 0 labels", 19, "from 1 to 20,000"),
        ("accuracy < 0.9 on 2.5 labels", 19, "whole number"),
        ("accuracy < 0.9 on 99999 labels", 19, "20,000"),
        ("accuracy < 0.9 on 200 things", 23, "labels, ratings"),
        ("accuracy < 0.9 over 10 minutes", 24, "s, m, h or d"),
        ("accuracy < 0.9 over 90d", 21, "31 days"),
        ("accuracy < 0.9 for 10m", 16, "`over` a time"),
        ("accuracy < report 0.1", 19, "expected +, -, `over` a time, `on` so many events, or nothing more"),
        ("accuracy < report - 1 0.1", 23, "expected `over` a time, `on` so many events, or nothing more"),
        ("accuracy < 0.9 over 10m more", 25, "nothing more"),
        ("accuracy < + 1", 12, "a number"),
    ],
)
def test_a_wrong_condition_is_told_with_its_column(text: str, column: int, said: str) -> None:
    with pytest.raises(ExpressionError) as error:
        parse(text)
    assert f"column {column}:" in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rougeL >= 29%", ThresholdExpression("rougeL", ">=", None, 29.0)),
        ("rougeL >= report - 1%", ThresholdExpression("rougeL", ">=", "report", -1.0)),
        ("no serious findings", ThresholdExpression("findings.serious", "<=", None, 0.0)),
    ],
)
def test_a_place_decides_scales_and_counts(text: str, expected: ThresholdExpression) -> None:
    assert parse_expression(text, PlainVocabulary()) == expected


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("accuracy > 0.9 on 200 labels", 16, "expected nothing more, got 'on'"),
        ("accuracy > report 1", 19, "expected +, -, or nothing more"),
        ("no grave findings", 4, "a severity"),
        ("no serious finding", 12, "`findings`"),
    ],
)
def test_a_place_without_windows_refuses_them(text: str, column: int, said: str) -> None:
    with pytest.raises(ExpressionError) as error:
        parse_expression(text, PlainVocabulary())
    assert f"column {column}: " in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("sign", "below", "same", "above"),
    [(">", False, False, True), (">=", False, True, True), ("<", True, False, False), ("<=", True, True, False)],
)
def test_a_comparison_holds(sign: str, below: bool, same: bool, above: bool) -> None:
    found = parse(f"accuracy {sign} 0.5")
    assert [found.holds(value, 0.5) for value in (0.4, 0.5, 0.6)] == [below, same, above]
    assert not found.holds(float("nan"), 0.5)


@given(st.text(max_size=40))
def test_any_text_is_read_or_told_to_be_wrong(text: str) -> None:
    with suppress(ExpressionError):
        assert parse(text).name in WINDOWS


@given(st.integers(1, 31 * 86400))
def test_a_time_comes_back_as_it_is_written(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["10", "m", "1 week", "-5m", "5mm", ""])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time"):
        parse_duration(text)


@pytest.mark.parametrize("unit", TIME_UNITS)
def test_every_unit_is_understood(unit: str) -> None:
    assert parse_duration(f"3{unit}") == 3 * TIME_UNITS[unit]
    assert parse_duration(7) == 7
