"""Edit distance and longest common subsequences against the table that everyone knows."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.metrics.text.sequences import lcs_length, lcs_positions, levenshtein_distance

LETTERS = st.text("abc", max_size=30)


def _table(a: str, b: str) -> tuple[int, int]:
    distance = [[i + j if not i * j else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    longest = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            same = a[i - 1] == b[j - 1]
            distance[i][j] = min(distance[i - 1][j - 1] + (not same), distance[i - 1][j] + 1, distance[i][j - 1] + 1)
            longest[i][j] = longest[i - 1][j - 1] + 1 if same else max(longest[i - 1][j], longest[i][j - 1])
    return distance[-1][-1], longest[-1][-1]


@given(LETTERS, LETTERS)
@settings(deadline=None)
def test_as_by_the_table(a: str, b: str) -> None:
    assert (levenshtein_distance(a, b), lcs_length(a, b)) == _table(a, b)


@given(LETTERS, LETTERS)
@settings(deadline=None)
def test_positions_are_a_longest_common_subsequence(a: str, b: str) -> None:
    places = lcs_positions(a, b)
    assert places == sorted(set(places))
    assert len(places) == lcs_length(a, b)
    rest = iter(b)
    assert all(a[place] in rest for place in places)


def test_long_sequences_are_quick_enough_to_be_used() -> None:
    assert levenshtein_distance("ab" * 3000, "ba" * 3000) == 2
    assert lcs_length("ab" * 3000, "ba" * 3000) == 5999
