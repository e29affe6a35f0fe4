"""What tells two states of a table apart, cheap where the database can do it itself."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import xxhash
from sqlalchemy import ColumnElement, Connection, CursorResult, func, literal_column, select
from sqlalchemy.exc import SQLAlchemyError

from luthier.core.hashing import digest_of
from luthier.data.database.address import DatabaseAddress
from luthier.data.database.reading import FETCHED
from luthier.data.database.selection import RowSelection, SqlRequest, build_selection
from luthier.data.database.session import create_source_engine, is_connection_lost, open_snapshot_transaction

_TRIES = 3
"""How often rows are looked at anew when the connection drops; a database that cannot be reached is not asked again."""
_LOOKED_AT = 100


def digest_selected_rows(address: DatabaseAddress, request: SqlRequest, *, by_cursor: bool) -> str | None:
    """A digest of the rows that are meant, or of the cursor's reach; None when they cannot be read."""
    for _ in range(_TRIES):
        reached = False
        try:
            with open_snapshot_transaction(create_source_engine(address), address) as connection:
                reached = True
                chosen = build_selection(connection, request)
                values = _reach(connection, chosen) if by_cursor else _rows(connection, chosen)
                lacking = connection.execute(chosen.lacking()).scalar_one() if chosen.cursor else 0
                return digest_of([*values, lacking])
        except SQLAlchemyError as error:
            if not (reached and is_connection_lost(error)):
                return None
    return None


def estimate_selection_bytes(address: DatabaseAddress, request: SqlRequest) -> int | None:
    """About how many bytes the rows have: their number times the mean of the first; None when that cannot be known."""
    try:
        with open_snapshot_transaction(create_source_engine(address), address) as connection:
            chosen = build_selection(connection, request)
            rows: int = connection.execute(chosen.count()).scalar_one()
            streamed = connection.execution_options(stream_results=True, yield_per=_LOOKED_AT)
            with closing(streamed.execute(chosen.ordered())) as result:
                first = result.fetchmany(_LOOKED_AT)
            return round(rows * sum(len(repr(tuple(row))) for row in first) / max(1, len(first)))
    except SQLAlchemyError:
        return None


def _reach(connection: Connection, chosen: RowSelection) -> list[Any]:
    return ["reach", *map(repr, connection.execute(chosen.reach()).one())]


def _rows(connection: Connection, chosen: RowSelection) -> list[Any]:
    if connection.dialect.name == "postgresql":
        return _inside_postgres(connection, chosen)
    result = connection.execution_options(stream_results=True, yield_per=FETCHED).execute(chosen.ordered())
    state = xxhash.xxh3_128(repr(tuple(result.keys())).encode())
    rows = 0
    for row in result:
        rows += 1
        state.update(repr(tuple(row)).encode("utf-8", "surrogatepass"))
    return ["rows", rows, state.hexdigest()]


def _inside_postgres(connection: Connection, chosen: RowSelection) -> list[Any]:
    """Summed hashes of the rows' texts, made by the server: nothing but the sums travels."""
    rows = chosen.named("t")
    sums: list[ColumnElement[Any]] = [
        literal_column(f'sum(hashtextextended(t::text COLLATE "C", {seed})::numeric)') for seed in (0, 1)
    ]
    none: CursorResult[Any] = connection.execute(select(literal_column("*")).select_from(rows).limit(0))
    description: Any = none.cursor.description if none.cursor else ()
    columns = [[each[0], each[1]] for each in description]
    return ["sums", columns, *map(str, connection.execute(select(func.count(), *sums).select_from(rows)).one())]
