"""Places of rows without an array of them answer as the array would."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.dedup.keep import rank_by_preference
from luthier.data.dedup.shingles import ComplementIndexSet, ListedIndexSet

MISSING = st.sets(st.integers(0, 29), max_size=30)


@settings(deadline=None)
@given(st.integers(0, 30), MISSING, MISSING)
def test_what_is_left_answers_as_an_array_does(count: int, missing: set[int], more: set[int]) -> None:
    gone = np.array(sorted(one for one in missing if one < count), dtype=np.int64)
    others = np.array(sorted(one for one in more if one < count), dtype=np.int64)
    whole = np.setdiff1d(np.arange(count), gone)
    left = ComplementIndexSet(count, gone)
    again = left.without(others)
    for found, wanted in ((left, whole), (ListedIndexSet(whole), whole), (again, np.setdiff1d(whole, others))):
        assert len(found) == len(wanted)
        assert [found[at] for at in range(len(wanted))] == wanted.tolist()
        assert found[:].tolist() == wanted.tolist()
        assert found[1:7].tolist() == wanted[1:7].tolist()
        backwards = list(range(len(wanted)))[::-1]
        assert (
            found[backwards].tolist() == found[np.array(backwards, dtype=np.uint32)].tolist() == wanted[::-1].tolist()
        )
        assert [found.below(end) for end in range(count + 1)] == [(wanted < end).sum() for end in range(count + 1)]
    assert left.at(whole).tolist() == list(range(len(whole)))


def test_rows_that_nobody_prefers_stay_in_order_and_take_no_room() -> None:
    assert isinstance(rank_by_preference(np.zeros(5)), ComplementIndexSet)
    assert rank_by_preference(np.zeros(5))[:].tolist() == [0, 1, 2, 3, 4]
    assert rank_by_preference(np.array([1.0, 3.0, 3.0, -np.inf]))[:].tolist() == [2, 0, 1, 3]
