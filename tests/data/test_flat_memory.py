"""What is held in memory does not grow with the rows, or by a byte or two for each: the rest lies on the disk."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from luthier.data import split
from luthier.data.decisions import DropReasons, Drops
from luthier.data.dedup import exact as copying
from luthier.data.dedup import minhash
from luthier.data.dedup.exact import find_exact_copies
from luthier.data.dedup.minhash import PERMUTATIONS, PairSearchResources, choose_bands, propose_candidate_pairs
from luthier.data.dedup.shingles import ComplementIndexSet
from luthier.data.engine import external_sort
from luthier.data.engine import occurrences as seen
from luthier.data.split import Split, SplitKeys, assign_splits

FEW, MANY = 20_000, 80_000
ODD = 0x9E3779B97F4A7C15


def growth(job: Callable[[int], object]) -> float:
    """Bytes at most for each row more."""
    peaks = []
    for rows in (FEW, MANY):
        tracemalloc.start()
        job(rows)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return (peaks[1] - peaks[0]) / (MANY - FEW)


def on_disk(folder: Path, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values.tofile(folder / "values")
    found: NDArray[np.uint64] = np.memmap(folder / "values", np.uint64, "r", shape=values.shape).view(np.ndarray)
    return found


def digests(rows: int) -> NDArray[np.uint64]:
    return np.random.default_rng(rows).integers(0, 2**64 - 1, rows, dtype=np.uint64)


def test_digests_and_keys_that_were_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, few in (
        (seen, "_RUN", 1 << 11),
        (seen, "_FILTER_BITS", 1 << 16),
        (external_sort, "_BLOCK", 1 << 10),
    ):
        monkeypatch.setattr(module, name, few)

    def count(rows: int) -> None:
        found = seen.OccurrenceCounter(tmp_path)
        for number in range(rows):
            found.count(number * ODD % 2**64)

    def first(rows: int) -> None:
        found = seen.FirstValueByKey(tmp_path)
        for number in range(rows // 4):
            found.value(f"row {number}", number)

    assert growth(count) < 0.5
    assert growth(first) < 0.5


@pytest.mark.parametrize("in_groups", [False, True])
def test_splits_by_shares(in_groups: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "_AT_ONCE", 1 << 10)
    monkeypatch.setattr(copying, "_SORTED", 1 << 12)
    monkeypatch.setattr(copying, "_BLOCK", 1 << 10)

    def by_shares(rows: int) -> None:
        groups = np.arange(rows, dtype=np.uint64) // 3 * in_groups
        (tmp_path / f"{rows}").mkdir(exist_ok=True)
        prompts = on_disk(tmp_path / f"{rows}", digests(rows))
        tracemalloc.reset_peak()
        assign_splits(Split(), SplitKeys(prompts, on_disk(tmp_path, groups), None), 7)

    assert growth(by_shares) < 4 + 8  # the groups are in memory while they are made


def test_copies_and_near_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_SORTED", 1 << 12)
    monkeypatch.setattr(copying, "_BLOCK", 1 << 10)
    for name in ("_BLOCK", "_FEW_ROWS"):
        monkeypatch.setattr(minhash, name, 1 << 10)
    chosen = choose_bands(0.8)

    def exact(rows: int) -> None:
        find_exact_copies(on_disk(tmp_path, digests(rows)).reshape(-1, 1))

    def near(rows: int) -> None:
        with (tmp_path / "lines").open("wb") as file:
            for start in range(0, rows, 1 << 10):
                file.write(np.random.default_rng(start).bytes(min(1 << 10, rows - start) * PERMUTATIONS))
        lines = np.memmap(tmp_path / "lines", np.uint8, "r", shape=(rows, PERMUTATIONS))
        propose_candidate_pairs(
            lines, chosen._replace(columns=chosen.columns[:3]), None, PairSearchResources(scratch=tmp_path)
        )

    assert growth(exact) < 8 + 1  # the digests are in memory while they are made
    assert growth(near) < 8 + 4  # the keys of one band


def test_rows_that_are_left_once_some_go() -> None:
    def settle(rows: int) -> None:
        gone = np.arange(0, rows, 1000)
        drops = Drops(gone, DropReasons(["x"] * len(gone), ["y"] * len(gone), [1.0] * len(gone)))
        left = ComplementIndexSet(rows).without(drops.at(ComplementIndexSet(rows)).indices)
        for start in range(0, len(left), 1024):
            assert drops.stay(left[start : start + 1024]).all()

    assert growth(settle) < 0.5
