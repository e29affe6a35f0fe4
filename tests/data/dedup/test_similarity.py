"""Twins among points: beside every pair compared one by one in double precision, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from luthier.data.dedup import similarity
from luthier.data.dedup.similarity import CosineDuplicateFinder

Say = list[tuple[int, int]]


def cloud(seed: int, count: int, width: int = 8, crowd: float = 0.5) -> NDArray[np.float32]:
    """Unit vectors around a few centres, so that many are near each other, some equal, one nowhere."""
    chance = np.random.default_rng(seed)
    centres = chance.normal(size=(4, width))
    points = centres[chance.integers(0, 4, count)] + crowd * chance.normal(size=(count, width))
    points[count // 2] = points[0]
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points[count // 3] = 0
    return points.astype(np.float32)


def truth(points: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    wide = points.astype(np.float64)
    return np.round(wide @ wide.T, 6) >= threshold


def greedy(near: NDArray[np.bool_], ranks: NDArray[np.int64]) -> dict[int, int]:
    """Each row that goes with the soonest twin that stays, one row after the other."""
    stays: list[int] = []
    found = {}
    for place in np.argsort(ranks).tolist():
        twin = next((other for other in stays if near[place, other]), None)
        if twin is None:
            stays.append(place)
        else:
            found[place] = twin
    return found


@pytest.mark.parametrize("blocks", [(1, 1), (7, 5), (1024, 4096)])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([0.6, 0.9, 0.97, 1.0]))
def test_who_stays_is_what_comparing_one_by_one_says(blocks: tuple[int, int], seed: int, threshold: float) -> None:
    points, ranks = cloud(seed, 60), np.random.default_rng(seed).permutation(60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "ROWS", blocks[0])
        patch.setattr(similarity, "COLUMNS", blocks[1])
        found = CosineDuplicateFinder(points, ranks, threshold).kept_twins()
    near = truth(points, threshold)
    assert {place: twin.of for place, twin in found.items()} == greedy(near, ranks)
    for place, twin in found.items():
        assert twin.similarity == pytest.approx(float(points[place].astype(float) @ points[twin.of]), abs=1e-6)
        assert twin.similarity >= threshold


@pytest.mark.parametrize("blocks", [(1, 1), (7, 5), (1024, 4096)])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([0.6, 0.9, 0.97]))
def test_clusters_are_the_connected_parts(blocks: tuple[int, int], seed: int, threshold: float) -> None:
    points, ranks = cloud(seed, 60), np.random.default_rng(seed).permutation(60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "ROWS", blocks[0])
        patch.setattr(similarity, "COLUMNS", blocks[1])
        found = CosineDuplicateFinder(points, ranks, threshold).clusters()
    near = truth(points, threshold)
    _, parts = connected_components(csr_matrix(near), directed=False)
    for part in set(parts.tolist()):
        rows = np.flatnonzero(parts == part)
        head = int(rows[np.argmin(ranks[rows])])
        assert {place: found[place].of for place in rows.tolist() if place in found} == {
            place: head for place in rows.tolist() if place != head
        }
    like = points.astype(np.float64) @ points.astype(np.float64).T
    for place, twin in found.items():
        assert twin.similarity >= threshold
        others = np.delete(like[parts == parts[place]], 0, axis=0) if len(found) == 0 else like[parts == parts[place]]
        assert np.isclose(np.round(others, 6), twin.similarity, atol=2e-6).any()


def test_a_pair_at_the_threshold_is_told_in_double_precision() -> None:
    """Pairs a millionth above and below the threshold, in many blocks: float32 alone would be a matter of luck."""
    threshold, count = 0.9, 400
    angles = np.arccos(threshold + np.where(np.arange(count) % 2, 3e-6, -3e-6))
    points = np.zeros((2 * count, 2 * count), dtype=np.float32)
    for pair in range(count):
        points[2 * pair, 2 * pair] = 1
        points[2 * pair + 1, 2 * pair : 2 * pair + 2] = np.cos(angles[pair]), np.sin(angles[pair])
    found = CosineDuplicateFinder(points, np.arange(2 * count), threshold).kept_twins()
    assert sorted(found) == [2 * pair + 1 for pair in range(1, count, 2)]


def test_points_may_lie_on_the_disk(tmp_path: object) -> None:
    points = cloud(3, 300)
    kept = np.memmap(f"{tmp_path}/points", dtype=np.float32, mode="w+", shape=points.shape)
    kept[:] = points
    ranks = np.arange(300)
    assert (
        CosineDuplicateFinder(kept, ranks, 0.9).kept_twins() == CosineDuplicateFinder(points, ranks, 0.9).kept_twins()
    )


def test_nothing_and_one() -> None:
    for count in (0, 1):
        near = CosineDuplicateFinder(np.ones((count, 1), dtype=np.float32), np.arange(count), 0.9)
        assert near.kept_twins() == near.clusters() == {}


@pytest.mark.parametrize("verb", ["kept_twins", "clusters"])
def test_it_says_how_far_it_is_in_shares_of_the_work(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """Later rows are held against more others, so that half of the rows are a quarter of the work."""
    monkeypatch.setattr(similarity, "ROWS", 10)
    told: Say = []
    getattr(
        CosineDuplicateFinder(cloud(1, 40), np.arange(40), 0.9, lambda done, total: told.append((done, total))), verb
    )()
    assert told == [(2, 40), (10, 40), (22, 40), (40, 40)]


@pytest.mark.parametrize("verb", ["kept_twins", "clusters"])
def test_no_points_are_no_work(verb: str) -> None:
    told: Say = []
    none = np.zeros((0, 4), dtype=np.float32)
    assert (
        getattr(CosineDuplicateFinder(none, np.arange(0), 0.9, lambda done, total: told.append((done, total))), verb)()
        == {}
    )
    assert told == []
