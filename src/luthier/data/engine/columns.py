"""Arrow columns from plain values, and sketches of all rows for the set operators.

Columns are laid out here because `pyarrow.array` imports pandas where it is installed, which takes a third of a second
and 60 MB. Sketches are written while rows pass and read from the disk on demand.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from luthier.core.files import translate_write_errors
from luthier.data.dedup.memory_map import release_mapped_pages
from luthier.data.dedup.shingles import ComplementIndexSet

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_MOST_BYTES = 2**31 - 1
"""What the 32-bit offsets of a column of texts reach."""
_AT_ONCE = 1 << 12


def to_arrow_column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Texts, whole numbers, numbers or yes and no, each with gaps where a value is None."""
    import pyarrow as pa

    is_there = np.fromiter((value is not None for value in values), bool, len(values)) if None in values else None
    if pa.types.is_string(kind):
        return _texts(values, is_there)
    filled = values if is_there is None else [0 if value is None else value for value in values]
    if pa.types.is_boolean(kind):
        return _laid_out(kind, len(values), _bits(np.fromiter(filled, bool, len(filled))), is_there)
    return _laid_out(kind, len(values), array("d" if pa.types.is_floating(kind) else "q", filled), is_there)


def to_arrow_mask(keep: NDArray[np.bool_]) -> pa.Array:
    """Convert a boolean NumPy mask to the Arrow array that `filter` takes."""
    import pyarrow as pa

    return _laid_out(pa.bool_(), len(keep), _bits(keep), None)


def to_arrow_indices(at: NDArray[np.int64]) -> pa.Array:
    """Convert row indices to the Arrow array that `take` takes."""
    import pyarrow as pa

    return _laid_out(pa.int64(), len(at), np.ascontiguousarray(at, dtype=np.int64), None)


def to_float_column(values: NDArray[np.float64]) -> pa.Array:
    """Numbers without gaps."""
    import pyarrow as pa

    return _laid_out(pa.float64(), len(values), np.ascontiguousarray(values, dtype=np.float64), None)


def build_text_column(name: Callable[[int], str], numbers: NDArray[np.int64]) -> pa.Array:
    """A text for each of some numbers, asked for one by one and held as Arrow holds them."""
    import pyarrow as pa

    parts = [
        to_arrow_column([name(number) for number in numbers[start : start + _AT_ONCE].tolist()], pa.string())
        for start in range(0, len(numbers), _AT_ONCE)
    ]
    return pa.concat_arrays([*parts, to_arrow_column([], pa.string())])


def int64_column_to_numpy(numbers: pa.Array) -> NDArray[np.int64]:
    """A column of whole numbers without gaps."""
    return np.frombuffer(numbers.buffers()[1], dtype=np.int64)[numbers.offset :][: len(numbers)]


def measure_byte_lengths(texts: pa.ChunkedArray) -> NDArray[np.int64]:
    """How many bytes each text has; a gap has none."""
    found = [
        np.diff(np.frombuffer(chunk.buffers()[1], dtype=np.int32)[chunk.offset :][: len(chunk) + 1])
        for chunk in texts.chunks
        if len(chunk)
    ]
    return np.concatenate(found).astype(np.int64) if found else np.zeros(0, dtype=np.int64)


def _texts(values: Sequence[str | None], is_there: NDArray[np.bool_] | None) -> pa.Array:
    import pyarrow as pa

    texts = values if is_there is None else ["" if value is None else value for value in values]
    joined = "".join(texts)  # type: ignore[arg-type]  # None was just taken out
    parts: Sequence[Any] = texts if joined.isascii() else [text.encode() for text in texts if text is not None]
    until = np.zeros(len(parts) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=until[1:])
    if until[-1] > _MOST_BYTES:
        return pa.array(values, pa.string())  # which says what is wrong
    written = pa.py_buffer(joined.encode() if parts is texts else b"".join(parts))
    offsets = pa.py_buffer(until.astype(np.int32))
    return pa.Array.from_buffers(pa.string(), len(parts), [_gaps(is_there), offsets, written])


def _laid_out(kind: pa.DataType, count: int, values: Any, is_there: NDArray[np.bool_] | None) -> pa.Array:
    import pyarrow as pa

    return pa.Array.from_buffers(kind, count, [_gaps(is_there), pa.py_buffer(values)])


def _gaps(is_there: NDArray[np.bool_] | None) -> pa.Buffer | None:
    import pyarrow as pa

    return None if is_there is None else pa.py_buffer(_bits(is_there))


def _bits(flags: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.packbits(flags, bitorder="little")


_ROWS_AT_ONCE = 1 << 16


class SketchWriter:
    """A file for each of some set operators."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._stack = contextlib.ExitStack()
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        self._files = [self._stack.enter_context(path.open("wb")) for path in self._paths]
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def write(self, sketches: Sequence[bytes]) -> None:
        """Add those of a batch: for each operator, end to end."""
        for path, file, some in zip(self._paths, self._files, sketches, strict=True):
            with translate_write_errors(path):
                file.write(some)


def map_remaining_sketches(path: Path, rows: int, left: ComplementIndexSet) -> NDArray[np.uint8]:
    """The sketches of the rows that are left, mapped from the disk; those of other rows are taken out of the file."""
    width = path.stat().st_size // max(rows, 1)
    if width == 0 or len(left) == 0:
        return np.zeros((len(left), width), dtype=np.uint8)
    if len(left) < rows:
        whole = np.memmap(path, dtype=np.uint8, mode="r", shape=(rows, width))
        picked = path.with_suffix(".left")
        with translate_write_errors(picked), picked.open("wb") as file:
            for start in range(0, len(left), _ROWS_AT_ONCE):
                file.write(whole[left[start : start + _ROWS_AT_ONCE]].tobytes())
                release_mapped_pages(whole)
        picked.replace(path)
    return np.memmap(path, dtype=np.uint8, mode="r", shape=(len(left), width))
