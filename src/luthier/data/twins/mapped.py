"""Arrays on the disk: read block by block, and pages that were read need not count as memory of this process."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 1 << 16
_PICKED = 1 << 9
"""So many rows are picked before pages are let go: each of them may lie in pages of its own, of which the system maps
sixteen at a time."""


def let_go(values: NDArray[Any]) -> None:
    """Give back the pages of an array that is mapped from a file; who reads it again has them from the system.

    Nothing happens to what lies in memory.
    """
    base: Any = values
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def gathered(values: NDArray[Any], at: NDArray[np.int64] | None = None) -> NDArray[Any]:
    """A copy in memory, of some rows or of all."""
    count = len(values) if at is None else len(at)
    found = np.empty((count, *values.shape[1:]), dtype=values.dtype)
    block = _BLOCK if at is None else _PICKED
    for start in range(0, count, block):
        part = slice(start, start + block)
        found[part] = values[part] if at is None else values[at[part]]
        let_go(values)
    return found
