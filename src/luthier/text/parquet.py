"""Parquet files read a few rows at a time, fewer where rows are long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

BATCH_BYTES = 32 << 20
"""What the rows of one batch may take, told from the mean of their row group."""


def batches(file: ParquetFile, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """All rows in order, at most so many at once; a batch never spans two row groups."""
    for group in range(file.metadata.num_row_groups):
        told = file.metadata.row_group(group)
        fitting = BATCH_BYTES * told.num_rows // max(1, told.total_byte_size)
        size = max(1, min(rows, fitting))
        yield from file.iter_batches(size, row_groups=[group], columns=list(columns) if columns else None)
