"""Parquet files, row by row in bounded memory; a row's line is its number from 1."""

from __future__ import annotations

import base64
import datetime
import decimal
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError, Where
from luthier.data.formats.lines import open_file
from luthier.data.row import Broken, Record


def read(path: Path, name: str) -> Iterator[Record | Broken]:
    """Rows of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    open_file(path, name).close()
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            _check_names(file.schema_arrow.names, name)
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield Record({key: plain(value) for key, value in values.items()}, name, number)
    except (pa.ArrowException, OSError) as error:
        remedy = "check that the file is whole, and that it is Parquet"
        raise DataError(
            f"is not a Parquet file that can be read: {_first_line(error)}", where=Where(file=name), remedy=remedy
        ) from error
    if number == 0:
        raise DataError("has no rows", where=Where(file=name), remedy="give a file with at least one row")


def _check_names(names: list[str], name: str) -> None:
    for column in names:
        if names.count(column) > 1:
            raise DataError(f"names the column {column!r} twice", where=Where(file=name, field=column))


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0][:200]


def plain(value: Any) -> Any:
    """A value as JSON can hold it: dates as ISO text, decimals as text, bytes as base64, NaN as nothing."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return _as_text(value)


def _as_text(value: Any) -> str:
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value) if isinstance(value, (decimal.Decimal, datetime.timedelta)) else repr(value)
