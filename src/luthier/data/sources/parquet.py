"""Parquet tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from luthier.data.formats import tables
from luthier.data.row import Broken, Record
from luthier.data.source import FileSource, Say


class Parquet(FileSource):
    """A Parquet file; a row's line is its number from 1."""

    kind: Literal["parquet"] = "parquet"

    def read(self, base: Path, say: Say) -> Iterator[Record | Broken]:
        """Yield every row with its number."""
        return tables.read(self.place(base), self.path)
