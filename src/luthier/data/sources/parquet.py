"""Parquet tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from luthier.data.formats import tables
from luthier.data.formats.files import SourceFile
from luthier.data.formats.sniff import FileSample, FormatMatch
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import FileSource, Say


class Parquet(FileSource):
    """Parquet files; a row's line is its number from 1."""

    kind: Literal["parquet"] = "parquet"
    endings: ClassVar[tuple[str, ...]] = (".parquet", ".pq")

    @classmethod
    def recognises(cls, look: FileSample) -> FormatMatch:
        """Its first four bytes."""
        return FormatMatch.CERTAIN if look.data.startswith(b"PAR1") else FormatMatch.NO

    def read_file(self, file: SourceFile, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield every row with its number."""
        return tables.read_parquet_rows(file)
