"""What is said of many rows is kept in a few bytes, and reads like plain dictionaries and lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.decisions import Drops, SparseColumn
from luthier.data.operator import Drop

DROP = st.builds(
    Drop, st.sampled_from(["exact duplicate", "schema a: 1"]), st.none() | st.text(max_size=4), st.none() | st.just(0.9)
)
PLACES = st.sets(st.integers(0, 60))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.integers(0, 60), DROP), PLACES)
def test_drops_are_those_of_a_dictionary(drops: dict[int, Drop], asked: set[int]) -> None:
    found = Drops.of(drops)
    places = np.array(sorted(asked), dtype=np.int64)
    expected = {index: drops[place] for index, place in enumerate(sorted(asked)) if place in drops}
    assert found.among(places) == expected
    assert found.stay(places).tolist() == [place not in drops for place in sorted(asked)]
    assert list(found) == sorted(drops)
    assert found == drops
    assert len(found) == len(drops)
    assert Drops.of(found) is found
    assert found.at(np.arange(61) * 3 + 1) == {place * 3 + 1: drop for place, drop in drops.items()}


def test_a_row_that_stays_has_no_drop() -> None:
    with pytest.raises(KeyError):
        Drops.of({3: Drop("short")})[4]
    assert 2 not in Drops.of({})


@settings(max_examples=100, deadline=None)
@given(PLACES, PLACES, st.sampled_from([("text", None, "a"), ("count", 1, 2), ("flag", False, True)]))
def test_a_column_that_is_mostly_the_same_reads_like_a_list(
    places: set[int], asked: set[int], values: tuple[str, object, object]
) -> None:
    kind, rest, other = values
    found = SparseColumn(61, rest, np.array(sorted(places), np.int64), [other] * len(places), kind)  # type: ignore[arg-type]
    expected = [other if place in places else rest for place in range(61)]
    assert list(found) == expected
    assert len(found) == 61
    assert (found[7], found[-1], found[3:9]) == (expected[7], expected[-1], expected[3:9])
    assert found.of(np.array(sorted(asked), np.int64)).to_pylist() == [expected[place] for place in sorted(asked)]
    moved = found.at(np.arange(61) + 5)
    assert moved.of(np.arange(61) + 5).to_pylist() == expected
