"""Counts that may be told: none is of few rows, totals are right, and numbers of bins stay near those of all rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.metrics.counts import CountGroup, move_small_counts

CELLS = tuple(map(str, range(12)))


@given(st.lists(st.integers(0, 30), min_size=12, max_size=12), st.integers(1, 25), st.booleans())
def test_no_count_of_few_rows_is_told_and_totals_are_right(counts: list[int], least: int, ordered: bool) -> None:
    group = CountGroup("any", CELLS, ordered)
    told = move_small_counts([group], {"any": dict(zip(CELLS, counts, strict=True))}, least)["any"]
    assert all(count == 0 or count >= least for count in told.values())
    assert sum(told.values()) == (sum(counts) if sum(counts) >= least else 0)


@given(st.lists(st.integers(0, 30), min_size=12, max_size=12), st.integers(1, 25))
def test_small_cells_in_an_order_join_a_neighbour(counts: list[int], least: int) -> None:
    """Of the rows up to each cell, fewer than two times the least are counted in another cell above or below it."""
    told = move_small_counts([CountGroup("any", CELLS, True)], {"any": dict(zip(CELLS, counts, strict=True))}, least)
    if sum(counts) >= least:
        apart = np.cumsum(list(told["any"].values())) - np.cumsum(counts)
        assert abs(apart).max() < least


@pytest.mark.parametrize("part", [0.5, 0.9])
def test_quantiles_of_few_rows_in_fine_bins_stay_near(part: float) -> None:
    """Sixty rows in four hundred bins, of which none holds ten: the largest bin alone would hold all of them."""
    bins = tuple(map(str, range(400)))
    values = np.random.default_rng(1).integers(100, 300, 60)
    counts = {name: int((values == at).sum()) for at, name in enumerate(bins)}
    told = move_small_counts([CountGroup("seconds", bins, True)], {"seconds": counts}, 10)["seconds"]
    seen = np.repeat(np.arange(400), list(told.values()))
    assert np.quantile(seen, part) == pytest.approx(np.quantile(values, part), abs=40)
    assert len(set(seen.tolist())) >= 5
