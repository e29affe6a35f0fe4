"""MinHash: the bound on what is overlooked, estimates near the truth, pieces that are what they should be."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.twins.minhash import MISSED, PERMUTATIONS, bands, most_bands, overlooked, proposed, signatures
from luthier.data.twins.pieces import jaccard, padded_pieces, pieces

TEXTS = st.lists(st.text("ab é😀 ", max_size=12), max_size=6)


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0])
def test_bands_overlook_one_pair_in_a_million(threshold: float) -> None:
    chosen = bands(threshold)
    count, width = chosen.columns.shape
    assert chosen.missed <= MISSED
    assert overlooked(threshold, width, count) <= MISSED
    assert all(len(set(band)) == width for band in chosen.columns.tolist())


@pytest.mark.parametrize("rows", [10, 1_000_000, 10_000_000])
def test_more_rows_are_proposed_by_wider_bands_that_overlook_no_more(rows: int) -> None:
    chosen = bands(0.8, most_bands(rows))
    assert chosen.missed <= MISSED
    assert chosen.columns.shape[1] == {10: 8, 1_000_000: 10, 10_000_000: 11}[rows]


@pytest.mark.parametrize(("threshold", "equal"), [(0.8, 100), (0.8, 90), (0.9, 108)])
def test_the_bound_is_what_happens(threshold: float, equal: int) -> None:
    """Of the chances that the bound sums up, each is compared with how often it comes true."""
    columns = bands(threshold).columns[:8]
    chance = random.Random(3)
    missed = 0
    for _ in range(4000):
        same = set(chance.sample(range(PERMUTATIONS), equal))
        missed += not any(same.issuperset(band) for band in columns.tolist())
    share = 1.0
    for taken in range(columns.shape[1]):
        share *= (equal - taken) / (PERMUTATIONS - taken)
    assert missed / 4000 == pytest.approx((1 - share) ** 8, abs=0.04)


def test_estimates_are_near_the_truth() -> None:
    chance = random.Random(1)
    for kept in (100, 180, 195):
        one = [f"w{n}" for n in range(200)]
        two = one[:kept] + [f"v{n}" for n in range(200 - kept)]
        chance.shuffle(two)
        flat = pieces([" ".join(one), " ".join(two)], "word", 1)
        estimate = (signatures(flat)[0] == signatures(flat)[1]).mean()
        assert estimate == pytest.approx(jaccard(*map(np.unique, (flat.of(0), flat.of(1)))), abs=0.12)


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(1, 6))
def test_pieces_do_not_depend_on_neighbours(texts: list[str], size: int) -> None:
    for unit in ("char", "word"):
        together = pieces(texts, unit, size)
        for place, text in enumerate(texts):
            assert together.of(place).tolist() == pieces([text], unit, size).hashes.tolist()
    padded = padded_pieces(texts, size)
    for place, text in enumerate(texts):
        assert sorted(padded.of(place)) == sorted(padded_pieces([text], size).hashes)


@settings(max_examples=100, deadline=None)
@given(st.text("ab é😀", max_size=20), st.text("ab é😀", max_size=20), st.integers(1, 4))
def test_pieces_are_runs(one: str, two: str, size: int) -> None:
    flat = pieces([one, two], "char", size)
    sets = [{text[at : at + size] for at in range(len(text) - size + 1)} or {text} for text in (one, two)]
    assert jaccard(np.unique(flat.of(0)), np.unique(flat.of(1))) == len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    words = pieces([one.replace("é", " ")], "word", 1)
    assert len(np.unique(words.hashes)) == max(1, len(set(one.replace("é", " ").split())))


def test_padded_pieces_tell_repeats_apart() -> None:
    flat = padded_pieces(["aaaa", "aaaaa"], 2)
    assert [len(np.unique(flat.of(place))) for place in (0, 1)] == [5, 6]
    assert jaccard(*(np.unique(flat.of(place)) for place in (0, 1))) == 5 / 6


def test_pairs_are_proposed_with_the_lower_first_and_crowds_apart() -> None:
    chance = np.random.default_rng(0)
    lines = chance.integers(0, 256, (40, PERMUTATIONS), dtype=np.uint8)
    lines[7] = lines[3]
    lines[10:30] = lines[10]
    pairs, crowds = proposed(lines, bands(0.8))
    assert pairs.tolist() == [[3, 7]]
    assert set(crowds.places.tolist()) == set(range(10, 30))
    assert np.all(np.diff(crowds.places) >= 0)
    none, nobody = proposed(lines[:0], bands(0.8))
    assert len(none) == len(nobody.places) == 0
