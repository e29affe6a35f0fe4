"""From two texts to the spans that differ: they make one of the other, and skip no more than a plain search does."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from luthier.data.cleaning import spans
from luthier.data.cleaning.spans import diff_to_edits
from luthier.data.engine.batch import apply_edits

SHORT = st.text(st.sampled_from("ab &;"), max_size=60)
REACH, ALIKE = 16, 6


def _plainly(old: str, i: int, new: str, j: int) -> tuple[int, int] | None:
    """All ways to skip up to 16 characters of each, the fewest first."""
    for total in range(1, 2 * REACH):
        for skip_old in range(max(0, total - REACH), min(total, REACH) + 1):
            skip_new = total - skip_old
            if i + skip_old > len(old) or j + skip_new > len(new):
                continue
            if old[i + skip_old :][:ALIKE] == new[j + skip_new :][:ALIKE]:
                return skip_old, skip_new
    return None


@settings(max_examples=300, deadline=None)
@given(SHORT, SHORT)
@example("a" * 40, "a" * 20)
@example("", "abc")
def test_edits_make_one_text_of_the_other(before: str, after: str) -> None:
    found = diff_to_edits("f", before, after, "r")
    assert apply_edits(before, found) == after
    assert all(one.before == before[one.start : one.end] for one in found)
    assert all(one.end <= two.start for one, two in pairwise(found))


@settings(max_examples=500, deadline=None)
@given(SHORT, SHORT)
@example("&amp; and more text", "& and more text")
@example("x" * 16 + "abcdef", "y" * 16 + "abcdef")
@example("x" * 16 + "abcdef", "y" * 15 + "abcdef")
def test_as_little_is_skipped_as_by_a_plain_search(old: str, new: str) -> None:
    same = spans._same_chars(old, 0, new, 0)
    if same == len(old) == len(new):
        return
    expected = _plainly(old, same, new, same) or spans._tail(old, same, new, same)
    assert spans._meet(old, same, new, same) == expected


def test_a_resolved_entity_is_one_small_span() -> None:
    (found,) = diff_to_edits("f", "salt &amp; pepper", "salt & pepper", "r")
    assert (found.start, found.before, found.after) == (6, "amp;", "")
