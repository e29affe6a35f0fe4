"""Parting a step into packs: as few as can be, none too large, about equal, and cut where little is shared."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.models.packing.pack import (
    EVEN,
    TokenRow,
    build_packs,
    common_prefix_length,
    distribute_evenly,
    split_into_runs,
)


def fewest(weights: list[int], most: int) -> int:
    runs, room = 0, 0
    for weight in weights:
        if weight > room:
            runs, room = runs + 1, most
        room -= weight
    return runs


def best(weights: list[int], runs: int) -> int:
    return next(most for most in range(max(weights), sum(weights) + 1) if fewest(weights, most) <= runs)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 200))
def test_runs_are_few_whole_and_even(weights: list[int], most: int) -> None:
    runs = split_into_runs(len(weights), lambda first, last: sum(weights[first:last]), [0] * len(weights), most)
    assert [at for run in runs for at in run] == list(range(len(weights)))
    sizes = [sum(weights[at] for at in run) for run in runs]
    assert all(size <= most or len(run) == 1 for size, run in zip(sizes, runs, strict=True))
    assert len(runs) == fewest(weights, most)
    assert max(sizes) <= best(weights, len(runs)) * (1 + EVEN) + 1


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 6))
def test_what_is_dealt_out_is_even(weights: list[int], parts: int) -> None:
    found = distribute_evenly(weights, parts)
    assert sorted(at for part in found for at in part) == list(range(len(weights)))
    assert len(found) == min(parts, len(weights))
    heavy = [sum(weights[at] for at in part) for part in found]
    assert max(heavy) - min(heavy) <= max(weights)


def test_cuts_come_where_little_is_shared() -> None:
    families = [0] * 9 + [1] * 11
    links = [0, *(40 * (one == other) for one, other in pairwise(families))]
    runs = split_into_runs(
        20, lambda first, last: 10 * (last - first) + 40 * len(set(families[first:last])), links, 180
    )
    assert runs == [range(9), range(9, 20)]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40)), min_size=1, max_size=24), st.integers(20, 200))
def test_packs_hold_every_row_once_and_never_too_much(shapes: list[tuple[int, int]], tokens: int) -> None:
    rows = [
        TokenRow([family] * 30 + [family] * length + [at, 7], [0.0] * (31 + length) + [1.0], f"{at}")
        for at, (family, length) in enumerate(shapes)
    ]
    made = build_packs(rows, tokens)
    assert sorted(key for one in made for key in one.keys) == sorted(row.key for row in rows)
    assert all(one.tokens <= tokens or one.rows == 1 for one in made)


def test_parts_of_a_step_cost_about_the_same() -> None:
    rows = [TokenRow([5] * 60 + [at] * (10 + at % 7) + [9], [0.0] * (70 + at % 7) + [1.0], f"{at}") for at in range(40)]
    sizes = [one.tokens for one in build_packs(rows, 300)]
    assert len(sizes) == 3
    assert max(sizes) < 1.1 * sum(sizes) / 3


@given(st.lists(st.integers(0, 1), max_size=200), st.lists(st.integers(0, 1), max_size=200), st.integers(0, 200))
def test_what_is_common_is_the_longest_prefix(one: list[int], other: list[int], shared: int) -> None:
    other = one[:shared] + other
    found = common_prefix_length(one, other)
    assert one[:found] == other[:found]
    assert found in (len(one), len(other)) or one[found] != other[found]
    assert common_prefix_length(tuple(one), other) == found


@pytest.mark.parametrize("mates", [1, 2])
def test_examples_are_never_parted(mates: int) -> None:
    rows = [
        TokenRow([at, at, 3, at + way, 7], [0, 0, 0, 1, 1], f"{at}", mates) for at in range(12) for way in range(mates)
    ]
    for one in build_packs(rows, 9):
        assert all(one.keys.count(key) == mates for key in one.keys)
