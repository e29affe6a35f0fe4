"""Rows of arrays that lie on the disk."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from luthier.data.dedup.memory_map import FEW, read_rows, release_mapped_pages

_KIND = np.dtype([("first", np.uint16), ("signature", np.uint8, (32,)), ("last", np.uint64)])
ROWS = 40_000


@pytest.fixture
def rows(tmp_path: Path) -> NDArray[Any]:
    """Records of 42 bytes in a file with a name, behind eight bytes of something else."""
    some = np.zeros(ROWS, dtype=_KIND)
    some["first"] = np.arange(ROWS) % 65_000
    some["signature"] = np.random.default_rng(0).integers(0, 256, (ROWS, 32))
    some["last"] = np.arange(ROWS) ** 2
    (tmp_path / "rows").write_bytes(b"8 bytes." + some.tobytes())
    return np.memmap(tmp_path / "rows", dtype=_KIND, mode="r", offset=8, shape=(ROWS,))


AT = np.array([39_999, 0, 7, 7, 20_000])


@pytest.mark.parametrize("field", ["first", "signature", "last"])
def test_rows_of_a_file_are_read_as_they_are(rows: NDArray[Any], field: str) -> None:
    values = rows[field].view(np.ndarray)
    for at in (AT, AT[:1], AT[:0], np.arange(2 * FEW) * 7):
        np.testing.assert_array_equal(read_rows(values, at), np.asarray(values)[at])
    np.testing.assert_array_equal(read_rows(values[3:], AT[1:]), values[3:][AT[1:]])


def test_of_what_has_no_file_with_a_name_they_are_picked() -> None:
    values = np.arange(60_000, dtype=np.int64).reshape(20_000, 3)
    with tempfile.TemporaryFile() as file:
        file.write(values.tobytes())
        file.flush()
        mapped = np.memmap(file, dtype=np.int64, mode="r", shape=values.shape)
        for some in (values, mapped, values[:, ::2]):
            np.testing.assert_array_equal(read_rows(some, AT[1:4]), some[AT[1:4]])


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux says which pages of a file are mapped")
def test_rows_that_are_read_map_no_pages(rows: NDArray[Any]) -> None:
    def resident() -> int:
        lines = iter(Path("/proc/self/smaps").read_text().splitlines())
        return sum(
            int(next(line for line in lines if line.startswith("Rss:")).split()[1]) for one in lines if name in one
        )

    name = os.fspath(rows.filename)  # type: ignore[attr-defined] # a memmap's
    read_rows(rows["signature"], AT)
    assert resident() == 0
    assert rows["signature"][AT].any()
    assert resident() > 0
    release_mapped_pages(rows["signature"])
    assert resident() == 0
