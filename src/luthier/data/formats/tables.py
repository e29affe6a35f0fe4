"""Parquet and Arrow files, row by row in bounded memory; a row's line is its number from 1."""

from __future__ import annotations

import base64
import datetime
import decimal
import io
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any, BinaryIO

from luthier.artifacts import parquet
from luthier.core.errors import DataError, SourceLocation
from luthier.data.formats.archives import refuse_zip_bomb
from luthier.data.formats.files import SourceFile
from luthier.data.row import BrokenRow, SourceRecord

_BATCH_ROWS = 1024
_TRUST = "if you trust it, write its rows as JSON lines, and name that file"


def read_parquet_rows(file: SourceFile) -> Iterator[SourceRecord | BrokenRow]:
    """Rows of a Parquet file."""
    return _read(file, "Parquet", _parquet)


def read_arrow(file: SourceFile) -> Iterator[SourceRecord | BrokenRow]:
    """Rows of an Arrow file (Feather), or of an Arrow stream."""
    return _read(file, "Arrow", _arrow)


Batches = Callable[[SourceFile], AbstractContextManager[tuple[list[str], Iterator[Any]]]]


def _read(file: SourceFile, what: str, batches: Batches) -> Iterator[SourceRecord | BrokenRow]:
    import pyarrow as pa

    number = 0
    try:
        with batches(file) as (columns, found):
            _check_names(columns, file.name)
            for batch in found:
                _check_whole(batch)
                rows = _fitting(batch)
                for start in range(0, batch.num_rows, rows):
                    for values in _values(batch.slice(start, rows)):
                        number += 1
                        yield _record(values, file.name, number)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        hint = f"check that the file is whole, and that it is {what}"
        article = "an" if what == "Arrow" else "a"
        problem = f"is not {article} {what} file that can be read: {_first_line(error)}"
        raise DataError(problem, where=file.where, hint=hint) from error
    if number == 0:
        raise DataError("has no rows", where=file.where, hint="give a file with at least one row")


def _check_whole(batch: Any) -> None:
    """Refuse a batch whose parts point anywhere: Arrow would follow them out of its memory."""
    import pyarrow as pa

    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
            if not text or "UTF8" not in str(error):
                raise


def _values(rows: Any) -> Iterator[dict[str, Any] | str]:
    """Every row, or the column whose text is no UTF-8."""
    try:
        yield from rows.to_pylist()
        return
    except UnicodeDecodeError:
        pass
    for index in range(rows.num_rows):
        row: dict[str, Any] | str = {}
        for name in rows.schema.names:
            try:
                row |= rows.slice(index, 1).select([name]).to_pylist()[0]
            except UnicodeDecodeError:
                row = name
                break
        yield row


def _record(values: dict[str, Any] | str, name: str, number: int) -> SourceRecord | BrokenRow:
    if isinstance(values, str):
        problem, hint = (
            "expected text in UTF-8, got other bytes",
            "write the text anew as UTF-8, or the column as bytes",
        )
        return BrokenRow(name, number, problem, values, hint)
    return SourceRecord({key: to_json_value(value) for key, value in values.items()}, name, number)


def _fitting(batch: Any) -> int:
    """How many of a batch's rows are taken apart at once."""
    fitting: int = parquet.BATCH_BYTES * batch.num_rows // max(1, batch.nbytes)
    return max(1, min(_BATCH_ROWS, fitting))


@contextmanager
def _seekable(file: SourceFile) -> Iterator[BinaryIO]:
    """The file's bytes with a way back and forth; a packed file is unpacked to the side."""
    if file.packing:
        with file.local() as copy, copy.open("rb") as opened:
            yield opened
    else:
        with file.raw() as opened:
            yield opened


@contextmanager
def _parquet(file: SourceFile) -> Iterator[tuple[list[str], Iterator[Any]]]:
    import pyarrow.parquet as pq

    with _seekable(file) as opened, pq.ParquetFile(opened) as table:
        found = parquet.read_parquet_batches(
            table, _BATCH_ROWS, kept=parquet.reopen_with_dictionary_columns(opened, table)
        )
        yield table.schema_arrow.names, _guarded(found, opened.seek(0, io.SEEK_END), file.where)


def _guarded(batches: Iterator[Any], packed: int, where: SourceLocation) -> Iterator[Any]:
    """The batches of a file of so many bytes, until they are too many to come out of it."""
    out = 0
    for batch in batches:
        out += batch.nbytes
        refuse_zip_bomb(out, packed, where, _TRUST)
        yield batch


@contextmanager
def _arrow(file: SourceFile) -> Iterator[tuple[list[str], Iterator[Any]]]:
    import pyarrow as pa

    with _seekable(file) as opened:
        if opened.read(6) == b"ARROW1":
            with pa.ipc.open_file(opened) as table:
                yield table.schema.names, (table.get_batch(number) for number in range(table.num_record_batches))
        else:
            opened.seek(0)
            with closing(pa.ipc.open_stream(opened)) as stream:
                yield stream.schema.names, iter(stream)


def _check_names(names: list[str], name: str) -> None:
    for column in names:
        if names.count(column) > 1:
            hint = "give every column its own name"
            raise DataError(
                f"names the column {column!r} twice", where=SourceLocation(file=name, field=column), hint=hint
            )


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0][:200]


def to_json_value(value: Any) -> Any:
    """A value as JSON can hold it: dates as ISO text, decimals as text, bytes as base64, NaN as nothing."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [to_json_value(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_json_value(item) for key, item in value.items()}
    return _as_text(value)


def _as_text(value: Any) -> str:
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value) if isinstance(value, (decimal.Decimal, datetime.timedelta)) else repr(value)
