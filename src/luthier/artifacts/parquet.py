"""Parquet files read a few rows at a time, fewer where rows are long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

BATCH_BYTES = 32 << 20
"""What the rows of one batch may take, told from the mean of their row group."""


def read_parquet_batches(
    file: ParquetFile, rows: int, columns: Sequence[str] | None = None, kept: ParquetFile | None = None
) -> Iterator[pa.RecordBatch]:
    """All rows in order, at most so many at once; a batch never spans two row groups.

    What a file of a stranger takes is told by the longest texts that stand once for many rows, too: `kept` is the same
    file `reopen_with_dictionary_columns`.
    """
    for group in range(file.metadata.num_row_groups):
        row_group = file.metadata.row_group(group)
        each = row_group.total_byte_size / max(1, row_group.num_rows)
        if kept is not None:
            each = max(each, _longest(kept, group))
        size = max(1, min(rows, int(BATCH_BYTES / max(1, each))))
        yield from file.iter_batches(size, row_groups=[group], columns=list(columns) if columns else None)


def reopen_with_dictionary_columns(source: BinaryIO, file: ParquetFile) -> ParquetFile:
    """The same file, of whose texts each that stands for many rows is read once."""
    from pyarrow.parquet import ParquetFile

    metadata = file.metadata
    paths = [metadata.schema.column(at).path for at in range(metadata.num_columns)]
    return ParquetFile(source, metadata=metadata, read_dictionary=paths)


def _longest(kept: ParquetFile, group: int) -> float:
    """Bytes of a row that holds of each column the longest text that stands once for many rows."""
    import pyarrow.compute as pc

    row_group = kept.metadata.row_group(group)
    total = 0.0
    for at in range(row_group.num_columns):
        column = row_group.column(at)
        if column.physical_type != "BYTE_ARRAY" or not column.has_dictionary_page:
            continue
        some = next(kept.iter_batches(1, row_groups=[group], columns=[column.path_in_schema]), None)
        texts = _dictionaries(some.column(0)) if some else []
        total += max((pc.max(pc.binary_length(text)).as_py() or 0 for text in texts), default=0) * column.num_values
    each: float = total / max(1, row_group.num_rows)
    return each


def _dictionaries(values: pa.Array) -> list[pa.Array]:
    """The texts of a column, in lists and structs, too; none of what is read as it stands."""
    import pyarrow as pa

    if pa.types.is_dictionary(values.type):
        return [values.dictionary]
    if pa.types.is_struct(values.type):
        return [dictionary for field in values.flatten() for dictionary in _dictionaries(field)]
    return _dictionaries(values.values) if hasattr(values, "values") else []
