"""Copies told by digests, beside a dictionary; and arrays on the disk, whose pages are given back unharmed."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luthier.data.dedup import exact, memory_map
from luthier.data.dedup.exact import ExactCopies, find_conflicting_rows, find_exact_copies
from luthier.data.dedup.memory_map import copy_to_memory, release_mapped_pages
from luthier.data.dedup.minhash import PERMUTATIONS, PairSearchResources, choose_bands, propose_candidate_pairs
from luthier.data.engine.workers import Workers

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=40)
LARGE = 2**64 - 1


@settings(deadline=None)
@given(PAIRS, st.randoms())
@example([], None)
@example([(LARGE, LARGE), (LARGE, 0), (LARGE, LARGE)], None)
def test_the_first_copy_is_the_one_of_lowest_rank(digests: list[tuple[int, int]], chance: object) -> None:
    ranks = list(range(len(digests)))
    if chance is not None:
        chance.shuffle(ranks)  # type: ignore[attr-defined]  # hypothesis' own random
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, digest in enumerate(digests):
        groups[digest].append(place)
    expected = [min(groups[digest], key=ranks.__getitem__) for digest in digests]
    words = np.array(digests, dtype=np.uint64).reshape(-1, 2)
    found = find_exact_copies(words, np.array(ranks, dtype=np.uint32))
    assert found.first_of(np.arange(len(digests))).tolist() == expected
    assert found.indices.tolist() == [place for place, first in enumerate(expected) if first != place]
    assert found.members().tolist() == [place for place, digest in enumerate(digests) if len(groups[digest]) > 1]
    assert find_exact_copies(words).first_of(np.arange(len(digests))).tolist() == [
        groups[digest][0] for digest in digests
    ]


@pytest.mark.parametrize("block", [1, 3, 64])
@pytest.mark.parametrize("at_a_time", [1, 7, 1 << 20])
def test_copies_are_found_across_blocks(block: int, at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_BLOCK", block)
    monkeypatch.setattr(exact, "_SORTED", at_a_time)
    chance = np.random.default_rng(5)
    digests = chance.integers(0, LARGE, (50, 2), dtype=np.uint64)
    digests[0] = LARGE
    digests[40:] = digests[:10]
    digests[20, 0] = digests[30, 0]  # half of a digest alone is no copy
    digests[21, 0] = digests[31, 0] ^ np.uint64(1)  # nor is half of a word
    found = find_exact_copies(digests)
    assert found.indices.tolist() == list(range(40, 50))
    assert found.firsts.tolist() == list(range(10))


@settings(deadline=None)
@given(PAIRS)
def test_a_prompt_is_contested_when_it_has_more_than_one_answer(rows: list[tuple[int, int]]) -> None:
    answers: dict[int, set[int]] = defaultdict(set)
    for prompt, answer in rows:
        answers[prompt].add(answer)
    first = {}
    prompts = [first.setdefault(("p", prompt), place) for place, (prompt, _) in enumerate(rows)]
    wholes = [first.setdefault(row, place) for place, row in enumerate(rows)]
    found = find_conflicting_rows(_copies(prompts), _copies(wholes))
    assert found.tolist() == [place for place, (prompt, _) in enumerate(rows) if len(answers[prompt]) > 1]


def _copies(firsts: list[int]) -> ExactCopies:
    places = [place for place, first in enumerate(firsts) if first != place]
    return ExactCopies(np.array(places, dtype=np.int64), np.array([firsts[place] for place in places], dtype=np.int64))


@pytest.fixture
def on_disk(tmp_path: Path) -> np.memmap[tuple[int, int], np.dtype[np.uint8]]:
    lines = np.random.default_rng(3).integers(0, 256, (200, PERMUTATIONS), dtype=np.uint8)
    lines[150] = lines[7]
    lines[20:50] = lines[20]
    lines.tofile(tmp_path / "lines")
    return np.memmap(tmp_path / "lines", dtype=np.uint8, mode="r", shape=lines.shape)


def test_what_was_let_go_can_be_read_again(
    on_disk: np.memmap[tuple[int, int], np.dtype[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_map, "_BLOCK", 7)
    whole = on_disk.tobytes()
    release_mapped_pages(on_disk)
    assert on_disk.tobytes() == whole
    assert copy_to_memory(on_disk).tobytes() == whole
    at = np.array([199, 0, 7, 7, 150])
    assert np.array_equal(copy_to_memory(on_disk, at), on_disk[at])
    fields = on_disk.view([("one", "<u8", 2), ("rest", "u1", PERMUTATIONS - 16)]).reshape(-1)
    assert np.array_equal(copy_to_memory(fields["one"]), fields["one"])
    release_mapped_pages(np.zeros(3))
    assert copy_to_memory(on_disk[:0]).shape == (0, PERMUTATIONS)


def test_on_the_disk_the_same_pairs_are_proposed_as_in_memory(
    on_disk: np.memmap[tuple[int, int], np.dtype[np.uint8]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, crowds = propose_candidate_pairs(np.array(on_disk), choose_bands(0.8))
    assert pairs.tolist() == [[7, 150]]
    for name, few in (("_BLOCK", 16), ("FEW", 3), ("_NEARBY", 5), ("_WAITING", 2), ("_MERGED_BANDS", 7)):
        monkeypatch.setattr(f"luthier.data.dedup.minhash.{name}", few)
    for hands in (1, 3):
        with Workers(hands, tmp_path) as workers:
            again, crowded = propose_candidate_pairs(
                on_disk, choose_bands(0.8), means=PairSearchResources(workers.map, tmp_path)
            )
        assert np.array_equal(pairs, again)
        assert np.array_equal(crowds.indices, crowded.indices)
    assert [path.name for path in tmp_path.iterdir()] == ["lines"]


def test_large_buckets_are_the_same_whoever_looks_at_the_bands(tmp_path: Path) -> None:
    chance = np.random.default_rng(3)
    lines = np.repeat(chance.integers(0, 256, (4, PERMUTATIONS), dtype=np.uint8), 40, axis=0)
    lines[::7, :30] = chance.integers(0, 256, (len(lines[::7]), 30), dtype=np.uint8)
    pairs, crowds = propose_candidate_pairs(lines, choose_bands(0.8))
    with Workers(3, tmp_path) as workers:
        again, crowded = propose_candidate_pairs(lines, choose_bands(0.8), means=PairSearchResources(workers.map))
    assert len(crowds.indices) > 160
    assert np.array_equal(pairs, again)
    assert np.array_equal(crowds.indices, crowded.indices)
    assert np.array_equal(crowds.buckets, crowded.buckets)


def test_places_count_among_the_rows_that_are_looked_at(
    on_disk: np.memmap[tuple[int, int], np.dtype[np.uint8]],
) -> None:
    among = np.array([3, 7, 60, 150, 151])
    pairs, crowds = propose_candidate_pairs(on_disk, choose_bands(0.8), among)
    assert among[pairs].tolist() == [[7, 150]]
    assert len(crowds.indices) == 0
