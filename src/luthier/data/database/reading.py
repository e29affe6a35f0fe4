"""Rows of a database in order, in bounded memory; when the connection drops, from the last cursor value on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, CursorResult, Engine
from sqlalchemy.exc import SQLAlchemyError

from luthier.core.errors import DataError, SourceLocation, did_you_mean
from luthier.data.database.address import DatabaseAddress
from luthier.data.database.selection import FETCHED, RowSelection, SqlRequest, build_selection
from luthier.data.database.session import (
    UndecodableText,
    create_source_engine,
    is_connection_lost,
    open_snapshot_transaction,
    to_data_error,
)
from luthier.data.formats.tables import to_json_value
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import Say

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
_AS_THEY_ARE = (str, int, float, bytes, list, tuple, dict)


@dataclass
class SqlReader:
    """One reading of a selection, over as many connections as it takes."""

    address: DatabaseAddress
    request: SqlRequest
    retries: int
    say: Say
    _engine: Engine = field(init=False)
    _number: int = 0
    _last: tuple[Any, ...] | None = None
    _tries: int = 0

    def __post_init__(self) -> None:
        self._engine = create_source_engine(self.address)

    def records(self) -> Iterator[SourceRecord | BrokenRow]:
        """Every row in order; then, broken, those that have no place in the order."""
        while True:
            try:
                with open_snapshot_transaction(self._engine, self.address) as connection:
                    chosen = build_selection(connection, self.request)
                    yield from self._rows(connection, chosen)
                    yield from self._lacking(connection, chosen)
                    break
            except SQLAlchemyError as error:
                self._again(error)
        if self._number == 0:
            hint = "check `table`, `query`, `after` and `until`"
            raise DataError("has no rows", where=SourceLocation(file=self.request.name), hint=hint)

    def _rows(self, connection: Connection, chosen: RowSelection) -> Iterator[SourceRecord | BrokenRow]:
        streamed = connection.execution_options(stream_results=True, yield_per=FETCHED)
        result = streamed.execute(chosen.ordered(self._last))
        with closing(result.cursor), closing(result):  # where the connection is lost, only the second close succeeds
            yield from self._to_records(result, chosen)

    def _to_records(self, result: CursorResult[Any], chosen: RowSelection) -> Iterator[SourceRecord | BrokenRow]:
        names = list(result.keys())
        _check(names, chosen)
        keys = [names.index(name) for name in chosen.cursor]
        for row in result:
            key = tuple(row[at] for at in keys)
            if keys and key == self._last:
                raise _ambiguous(chosen, key)
            self._number += 1
            self._last, self._tries = key, 0
            yield self._record(chosen, names, row, key)

    def _record(
        self, chosen: RowSelection, names: list[str], row: Sequence[Any], key: tuple[Any, ...]
    ) -> SourceRecord | BrokenRow:
        line, name = self._number, None
        if len(key) == 1 and isinstance(key[0], int) and key[0] > 0:
            line = int(key[0])
        elif key:
            key_items = zip(chosen.cursor, key, strict=True)
            name = ", ".join(f"{column} = {_value(value)}" for column, value in key_items)
        for column, value in zip(names, row, strict=True):
            if isinstance(value, UndecodableText):
                problem = "expected text in UTF-8, got other bytes"
                hint = "store it as UTF-8, or `CAST` the column to BLOB in a `query`"
                return BrokenRow(chosen.name, line, problem, column, hint, key=name)
        values = {column: _value(value) for column, value in zip(names, row, strict=True)}
        return SourceRecord(values, chosen.name, line, name)

    def _lacking(self, connection: Connection, chosen: RowSelection) -> Iterator[BrokenRow]:
        """The rows that the order cannot hold, as broken ones; they stand behind all others."""
        if not chosen.cursor:
            return
        count = connection.execute(chosen.lacking()).scalar_one()
        column = ", ".join(chosen.cursor)
        for at in range(count):
            self._number += 1
            problem = "has no value in the cursor's column, so it has no place in the order"
            hint = "name a cursor that every row has, or fill the column"
            yield BrokenRow(chosen.name, -1 - at, problem, column, hint, key=f"{column} is empty ({at + 1} of {count})")

    def _again(self, error: SQLAlchemyError) -> None:
        """Wait before another try, when one can help; else say what is wrong."""
        if not is_connection_lost(error) or self._tries >= self.retries or (self._last is None and self._tries == 0):
            raise to_data_error(error, self.address, self.request.name) from None
        if not self._last:
            what = f"the connection dropped after {self._number} rows, and the query has no `cursor` to go on from"
            hint = "name `cursor`: columns that order the rows and that no two rows share"
            raise DataError(what, where=SourceLocation(file=self.request.name), hint=hint) from None
        self.say(f"{self.request.name}: the connection dropped after {self._number} rows; going on from there")
        time.sleep(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**self._tries))
        self._tries += 1


def _check(names: list[str], chosen: RowSelection) -> None:
    for name in names:
        if names.count(name) > 1:
            hint = "give one of them another name: `SELECT a.id, b.id AS b_id`"
            raise DataError(
                "two columns have the same name", where=SourceLocation(file=chosen.name, field=name), hint=hint
            )
    for name in chosen.cursor:
        if name not in names:
            where, hint = SourceLocation(file=chosen.name, field="cursor"), did_you_mean(name, names)
            raise DataError(f"there is no column {name!r}", where=where, hint=hint)


def _ambiguous(chosen: RowSelection, key: tuple[Any, ...]) -> DataError:
    both = ", ".join(f"{name} = {_value(value)}" for name, value in zip(chosen.cursor, key, strict=True))
    hint = "add columns until no two rows share them all: `cursor: [updated_at, id]`"
    return DataError(f"two rows have {both}", where=SourceLocation(file=chosen.name, field="cursor"), hint=hint)


def _value(value: Any) -> Any:
    """A value as JSON can hold it; what the database has beyond that (UUIDs, addresses, ranges) as its own text."""
    if isinstance(value, memoryview):
        value = bytes(value)
    simple = value is None or isinstance(value, _AS_THEY_ARE) or hasattr(value, "isoformat")
    return to_json_value(value) if simple else str(value)
