"""MinHash: the bound on what is overlooked, estimates near the truth, pieces that are what they should be."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.dedup.minhash import (
    MISSED,
    PERMUTATIONS,
    choose_bands,
    compute_minhash_signatures,
    max_bands_for,
    miss_probability,
    propose_candidate_pairs,
)
from luthier.data.dedup.shingles import cut_padded_shingles, cut_shingles, jaccard

TEXTS = st.lists(st.text("ab é😀 ", max_size=12), max_size=6)


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0])
def test_bands_overlook_one_pair_in_a_million(threshold: float) -> None:
    chosen = choose_bands(threshold)
    count, width = chosen.columns.shape
    assert chosen.missed <= MISSED
    assert miss_probability(threshold, width, count) <= MISSED
    assert all(len(set(band)) == width for band in chosen.columns.tolist())


@pytest.mark.parametrize("rows", [10, 1_000_000, 10_000_000])
def test_more_rows_are_proposed_by_wider_bands_that_overlook_no_more(rows: int) -> None:
    chosen = choose_bands(0.8, max_bands_for(rows))
    assert chosen.missed <= MISSED
    assert chosen.columns.shape[1] == {10: 8, 1_000_000: 10, 10_000_000: 11}[rows]


@pytest.mark.parametrize(("threshold", "equal"), [(0.8, 100), (0.8, 90), (0.9, 108)])
def test_the_bound_is_what_happens(threshold: float, equal: int) -> None:
    """Of the chances that the bound sums up, each is compared with how often it comes true."""
    columns = choose_bands(threshold).columns[:8]
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
        flat = cut_shingles([" ".join(one), " ".join(two)], "word", 1)
        estimate = (compute_minhash_signatures(flat)[0] == compute_minhash_signatures(flat)[1]).mean()
        assert estimate == pytest.approx(jaccard(*map(np.unique, (flat.of(0), flat.of(1)))), abs=0.12)


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(1, 6))
def test_pieces_do_not_depend_on_neighbours(texts: list[str], size: int) -> None:
    for unit in ("char", "word"):
        together = cut_shingles(texts, unit, size)
        for place, text in enumerate(texts):
            assert together.of(place).tolist() == cut_shingles([text], unit, size).hashes.tolist()
    padded = cut_padded_shingles(texts, size)
    for place, text in enumerate(texts):
        assert sorted(padded.of(place)) == sorted(cut_padded_shingles([text], size).hashes)


@settings(max_examples=100, deadline=None)
@given(st.text("ab é😀", max_size=20), st.text("ab é😀", max_size=20), st.integers(1, 4))
def test_pieces_are_runs(one: str, two: str, size: int) -> None:
    flat = cut_shingles([one, two], "char", size)
    sets = [{text[at : at + size] for at in range(len(text) - size + 1)} or {text} for text in (one, two)]
    assert jaccard(np.unique(flat.of(0)), np.unique(flat.of(1))) == len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    words = cut_shingles([one.replace("é", " ")], "word", 1)
    assert len(np.unique(words.hashes)) == max(1, len(set(one.replace("é", " ").split())))


def test_padded_pieces_tell_repeats_apart() -> None:
    flat = cut_padded_shingles(["aaaa", "aaaaa"], 2)
    assert [len(np.unique(flat.of(place))) for place in (0, 1)] == [5, 6]
    assert jaccard(*(np.unique(flat.of(place)) for place in (0, 1))) == 5 / 6


def test_pairs_are_proposed_with_the_lower_first_and_crowds_apart() -> None:
    chance = np.random.default_rng(0)
    lines = chance.integers(0, 256, (40, PERMUTATIONS), dtype=np.uint8)
    lines[7] = lines[3]
    lines[10:30] = lines[10]
    pairs, crowds = propose_candidate_pairs(lines, choose_bands(0.8))
    assert pairs.tolist() == [[3, 7]]
    assert set(crowds.indices.tolist()) == set(range(10, 30))
    assert np.all(np.diff(crowds.indices) >= 0)
    none, nobody = propose_candidate_pairs(lines[:0], choose_bands(0.8))
    assert len(none) == len(nobody.indices) == 0


def test_all_rows_that_share_a_band_and_enough_columns_are_proposed() -> None:
    """Against every pair: copies with changes, a few and many of a kind, and strangers that share a band."""
    chance = np.random.default_rng(5)
    lines = chance.integers(0, 256, (300, PERMUTATIONS), dtype=np.uint8)
    chosen = choose_bands(0.8)
    lines[:60, chosen.columns[0]] = lines[0, chosen.columns[0]]
    lines[60:90], lines[90:96] = lines[60], lines[90]
    for line in lines[61:96]:
        at = chance.integers(0, PERMUTATIONS, chance.integers(1, 40))
        line[at] = chance.integers(0, 256, len(at), dtype=np.uint8)
    lines[5, :120] = lines[40, :120]
    wanted = {
        (one, two)
        for two in range(len(lines))
        for one in range(two)
        if (same := lines[one] == lines[two]).sum() >= chosen.at_least and same[chosen.columns].all(axis=1).any()
    }
    pairs, crowds = propose_candidate_pairs(lines, chosen)
    buckets = {int(bucket): crowds.indices[crowds.buckets == bucket].tolist() for bucket in np.unique(crowds.buckets)}
    crowded = {(one, two) for members in buckets.values() for one in members for two in members if one < two}
    assert {*map(tuple, pairs.tolist())} <= wanted <= {*map(tuple, pairs.tolist())} | crowded
    assert (5, 40) in {*map(tuple, pairs.tolist())}
    assert not {*range(60)} & {place for members in buckets.values() for place in members}, "strangers are no crowd"
    assert buckets, "copies of one row are"


def test_of_a_bucket_larger_than_is_compared_in_pairs_all_are_a_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.data.dedup.minhash._LARGEST", 50)
    lines = np.random.default_rng(5).integers(0, 256, (60, PERMUTATIONS), dtype=np.uint8)
    lines[:, choose_bands(0.8).columns[0]] = 7
    pairs, crowds = propose_candidate_pairs(lines, choose_bands(0.8))
    assert len(pairs) == 0
    assert crowds.indices.tolist() == [*range(60)]
