"""Sketches of rows for the set operators that end a pass: written as the rows go by, read from the disk as needed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

import numpy as np

from luthier.core.files import writing
from luthier.data.twins.mapped import let_go
from luthier.data.twins.places import Rest

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
            with writing(path):
                file.write(some)


def sketches_of(path: Path, rows: int, left: Rest) -> NDArray[np.uint8]:
    """The sketches of the rows that are left, mapped from the disk; those of other rows are taken out of the file."""
    width = path.stat().st_size // max(rows, 1)
    if width == 0 or len(left) == 0:
        return np.zeros((len(left), width), dtype=np.uint8)
    if len(left) < rows:
        whole = np.memmap(path, dtype=np.uint8, mode="r", shape=(rows, width))
        picked = path.with_suffix(".left")
        with writing(picked), picked.open("wb") as file:
            for start in range(0, len(left), _ROWS_AT_ONCE):
                file.write(whole[left[start : start + _ROWS_AT_ONCE]].tobytes())
                let_go(whole)
        picked.replace(path)
    return np.memmap(path, dtype=np.uint8, mode="r", shape=(len(left), width))
