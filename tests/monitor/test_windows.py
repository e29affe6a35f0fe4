"""Windows hold what they say, in bounded memory, as an even sample."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from luthier.core.expressions import Window
from luthier.monitor.signal import SignalRow
from luthier.monitor.windows import PARTS, ROWS_OF_PART, build_window, hash_text_key, hash_to_unit_intervals


def row(number: int, value: float = 1.0) -> SignalRow:
    return SignalRow(hash_text_key(str(number)), value, f"r{number}")


@given(st.lists(st.floats(0, 500), min_size=1, max_size=80), st.integers(1, 600))
def test_a_window_of_time_holds_what_came_lately(times: list[float], seconds: int) -> None:
    kept = build_window(Window(seconds=seconds))
    now = 600.0
    for number, at in enumerate(sorted(times)):
        kept.add(at, row(number))
    slack = max(1.0, seconds / PARTS)
    held = len(kept.rows(now))
    assert sum(at >= now - seconds for at in times) <= held <= sum(at >= now - seconds - 2 * slack for at in times)
    assert held == kept.events(now)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_rows_that_come_late_go_where_they_belong(times: list[int], chance: random.Random) -> None:
    ordered, shuffled = build_window(Window(seconds=600)), build_window(Window(seconds=600))
    rows = [(float(at), row(number)) for number, at in enumerate(times)]
    for at, one in sorted(rows, key=lambda pair: pair[0]):
        ordered.add(at, one)
    chance.shuffle(rows)
    for at, one in rows:
        shuffled.add(at, one)
    assert sorted(ordered.rows(301)) == sorted(shuffled.rows(301))


@given(st.lists(st.integers(0, 30), max_size=100), st.integers(1, 20))
def test_a_window_of_events_holds_the_last_word_of_each(keys: list[int], events: int) -> None:
    kept = build_window(Window(events=events))
    for number, key in enumerate(keys):
        kept.add(float(number), row(key, float(number)))
    last = {key: float(number) for number, key in enumerate(keys)}
    expected = sorted(last.values())[-events:]
    assert [one.value for one in kept.rows(0)] == expected


def test_a_crowded_window_is_an_even_sample() -> None:
    kept = build_window(Window(seconds=600))
    for number in range(30_000):
        kept.add(number / 100, row(number, float(number % 10 == 0)))
    rows = kept.rows(300.0)
    assert kept.events(300.0) == 30_000
    assert len(rows) <= PARTS * ROWS_OF_PART
    share = sum(one.value for one in rows) / len(rows)
    assert abs(share - 0.1) < 0.02


def test_busy_and_quiet_times_are_sampled_alike() -> None:
    """One minute with a hundred times the traffic must weigh a hundred times as much."""
    kept = build_window(Window(seconds=3600))
    number = 0
    for minute in range(60):
        for _ in range(4000 if minute == 30 else 40):
            number += 1
            kept.add(60.0 * minute + 1, row(number, float(minute == 30)))
    rows = kept.rows(3599.0)
    truth = 4000 / (4000 + 59 * 40)
    assert abs(sum(one.value for one in rows) / len(rows) - truth) < 0.06


def test_lots_are_even_and_apart() -> None:
    lots = [hash_to_unit_intervals(str(number), 2) for number in range(2000)]
    for place in range(2):
        assert abs(sum(lot[place] for lot in lots) / 2000 - 0.5) < 0.03
    assert abs(sum((a - 0.5) * (b - 0.5) for a, b in lots) / 2000) < 0.01
