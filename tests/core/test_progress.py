"""Rates and time left, from marks alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.events import ThroughputMeter


def test_nothing_is_known_from_one_mark() -> None:
    pace = ThroughputMeter()
    assert pace.rate == 0
    assert pace.left(10) is None
    pace.mark(0, 5)
    assert pace.rate == 0
    assert pace.left(10) is None


@given(st.floats(0.01, 1e4), st.floats(0, 1e5), st.integers(2, 200))
def test_a_steady_rate_is_told_also_after_a_resume(rate: float, start: float, count: int) -> None:
    pace = ThroughputMeter()
    for second in range(count):
        pace.mark(1e9 + second, start + rate * second)
    assert pace.rate == pytest.approx(rate, rel=1e-3, abs=1e-6)
    done = start + rate * (count - 1)
    assert pace.left(done + 10 * rate) == pytest.approx(10, rel=1e-2)


def test_the_rate_follows_a_change_within_the_window() -> None:
    pace = ThroughputMeter()
    for second in range(100):
        pace.mark(second, second)
    for second in range(100, 140):
        pace.mark(second, 100 + 5 * (second - 100))
    assert pace.rate == pytest.approx(5)


def test_work_that_starts_again_starts_anew() -> None:
    pace = ThroughputMeter()
    pace.mark(0, 0)
    pace.mark(10, 100)
    pace.mark(11, 0)
    assert pace.rate == 0
    pace.mark(12, 3)
    assert pace.rate == 3
    assert pace.left(1) == 0


def test_no_time_passed_is_no_division() -> None:
    pace = ThroughputMeter()
    pace.mark(1, 0)
    pace.mark(1, 5)
    assert pace.rate == 0
