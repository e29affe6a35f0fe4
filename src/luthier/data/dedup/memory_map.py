"""Arrays on the disk: read block by block, and pages that were read need not count as memory of this process."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 1 << 16
_PICKED = 1 << 9
"""So many rows are picked before pages are let go: each of them may lie in pages of its own, of which the system maps
sixteen at a time."""

FEW = 1 << 8
"""So many rows are read one by one sooner than the pages around them are mapped."""


class MemoryMapLocation(NamedTuple):
    """Where an array that is mapped from a file lies there."""

    path: str
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]


def locate_memory_map(values: NDArray[Any]) -> MemoryMapLocation | NDArray[Any]:
    """Where an array lies, for another process to open it; the array itself where that is in memory."""
    whole = _whole(values)
    if (name := getattr(whole, "filename", None)) is None:
        return values
    start = values.ctypes.data - whole.ctypes.data + whole.offset
    return MemoryMapLocation(str(name), start, values.shape, values.strides, values.dtype)


def open_memory_map(found: MemoryMapLocation | NDArray[Any]) -> NDArray[Any]:
    """The array that lies there."""
    if not isinstance(found, MemoryMapLocation):
        return found
    whole = np.memmap(found.path, dtype=np.uint8, mode="r").view(np.ndarray)
    return np.ndarray(found.shape, found.dtype, whole, found.start, found.strides)


def release_mapped_pages(values: NDArray[Any]) -> None:
    """Give back the pages of an array that is mapped from a file; who reads it again has them from the system.

    Nothing happens to what lies in memory.
    """
    pages = _whole(values).base
    if isinstance(pages, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


def copy_to_memory(values: NDArray[Any], at: NDArray[np.int64] | None = None) -> NDArray[Any]:
    """A copy in memory, of some rows or of all."""
    count = len(values) if at is None else len(at)
    found = np.empty((count, *values.shape[1:]), dtype=values.dtype)
    block = _BLOCK if at is None else _PICKED
    for start in range(0, count, block):
        part = slice(start, start + block)
        found[part] = values[part] if at is None else values[at[part]]
        release_mapped_pages(values)
    return found


def read_rows(values: NDArray[Any], at: NDArray[np.int64]) -> NDArray[Any]:
    """A copy of some rows of many; `FEW` and fewer are read by themselves where they lie in a file that has a name: a
    look through mapped pages maps up to two megabytes around each row."""
    whole = _whole(values)
    name = getattr(whole, "filename", None)
    if name is None or len(at) > FEW or not hasattr(os, "pread") or not values[:1].flags.c_contiguous:
        found = values[at]
        release_mapped_pages(values)
        return found
    start, step, size = values.ctypes.data - whole.ctypes.data + whole.offset, values.strides[0], values[:1].nbytes
    file = os.open(name, os.O_RDONLY)
    try:
        rows = b"".join([os.pread(file, size, start + row * step) for row in at.tolist()])
    finally:
        os.close(file)
    return np.frombuffer(rows, dtype=values.dtype).reshape(len(at), *values.shape[1:])


def _whole(values: NDArray[Any]) -> Any:
    """The array of which this one is a part."""
    whole: Any = values
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    return whole
