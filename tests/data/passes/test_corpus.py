"""Rows that go are kept in a few bytes each, and are told like those of a plain dictionary."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.operator import Drop
from luthier.data.passes.corpus import Drops

DROP = st.builds(
    Drop, st.sampled_from(["exact duplicate", "schema a: 1"]), st.none() | st.text(max_size=4), st.none() | st.just(0.9)
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.integers(0, 60), DROP), st.sets(st.integers(0, 60)))
def test_drops_are_those_of_a_dictionary(drops: dict[int, Drop], asked: set[int]) -> None:
    found = Drops(np.array(list(drops), dtype=np.int64), list(drops.values()))
    places = np.array(sorted(asked), dtype=np.int64)
    expected = {index: drops[place] for index, place in enumerate(sorted(asked)) if place in drops}
    assert found.among(places) == expected
    assert found.stay(places).tolist() == [place not in drops for place in sorted(asked)]
    assert found.places.tolist() == sorted(drops)
