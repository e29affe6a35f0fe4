"""What conditions of alerts mean, and how wrong ones are told."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.phrase import WrongRule
from luthier.monitor.when import UNITS, Window, duration, parse, seconds_of

USUAL = {"accuracy": Window(events=200), "latency.p95": Window(seconds=3600), "rougeL": Window(events=50)}


@pytest.mark.parametrize(
    ("text", "name", "sign", "report", "margin", "window"),
    [
        ("accuracy < 0.9 on 200 labels", "accuracy", "<", False, 0.9, Window(events=200)),
        ("accuracy < 90%", "accuracy", "<", False, 0.9, Window(events=200)),
        ("latency.p95 > 2 over 10m", "latency.p95", ">", False, 2.0, Window(seconds=600)),
        ("latency.p95>=2.5 over 1.5h", "latency.p95", ">=", False, 2.5, Window(seconds=5400)),
        ("accuracy < report - 0.03", "accuracy", "<", True, -0.03, Window(events=200)),
        ("accuracy < report - 3% on 50 ratings", "accuracy", "<", True, -0.03, Window(events=50)),
        ("accuracy <= report", "accuracy", "<=", True, 0.0, Window(events=200)),
        ("Rouge_L < -1", "rougeL", "<", False, -1.0, Window(events=50)),
        ("accuracy > 1e-3 over 1d", "accuracy", ">", False, 0.001, Window(seconds=86400)),
    ],
)
def test_a_condition_is_read(text: str, name: str, sign: str, report: bool, margin: float, window: Window) -> None:
    assert parse(text, USUAL) == (name, sign, report, margin, window)


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("", 1, "expected a number of a signal"),
        ("acuracy < 1", 1, "did you mean 'accuracy'"),
        ("accuracy = 1", 10, "has no meaning"),
        ("accuracy < base", 12, "`report`"),
        ("accuracy < 0.9 on labels", 19, "expected a number"),
        ("accuracy < 0.9 on 0 labels", 19, "from 1 to 20,000"),
        ("accuracy < 0.9 on 2.5 labels", 19, "whole number"),
        ("accuracy < 0.9 on 99999 labels", 19, "20,000"),
        ("accuracy < 0.9 on 200 things", 23, "labels, ratings"),
        ("accuracy < 0.9 over 10 minutes", 24, "s, m, h or d"),
        ("accuracy < 0.9 over 90d", 21, "31 days"),
        ("accuracy < 0.9 for 10m", 16, "`over` a time"),
        ("accuracy < report 0.1", 19, "`over` a time"),
        ("accuracy < 0.9 over 10m more", 25, "nothing more"),
        ("accuracy < + 1", 12, "a number"),
    ],
)
def test_a_wrong_condition_is_told_with_its_column(text: str, column: int, said: str) -> None:
    with pytest.raises(WrongRule) as error:
        parse(text, USUAL)
    assert f"column {column}:" in str(error.value)
    assert said in str(error.value)


@given(st.text(max_size=40))
def test_any_text_is_read_or_told_to_be_wrong(text: str) -> None:
    with suppress(WrongRule):
        assert parse(text, USUAL).name in USUAL


@given(st.integers(1, 31 * 86400))
def test_a_time_comes_back_as_it_is_written(seconds: int) -> None:
    assert seconds_of(duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["10", "m", "1 week", "-5m", "5mm", ""])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time"):
        seconds_of(text)


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_is_understood(unit: str) -> None:
    assert seconds_of(f"3{unit}") == 3 * UNITS[unit]
    assert seconds_of(7) == 7
