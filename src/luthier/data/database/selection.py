"""Select rows of a database table, and digest what was selected."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import xxhash
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    CursorResult,
    FromClause,
    Select,
    TableClause,
    TextClause,
    and_,
    bindparam,
    column,
    func,
    inspect,
    literal_column,
    or_,
    select,
    table,
    text,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import NullType

from luthier.core.errors import DataError, SourceLocation, did_you_mean
from luthier.core.hashing import digest_of
from luthier.data.database.address import DatabaseAddress
from luthier.data.database.session import create_source_engine, is_connection_lost, open_snapshot_transaction

FETCHED = 1000
"""Rows that are held in memory at once."""

_NAMES_ROWS = re.compile(r"(?i:(?:^|_)(?:id|key|uuid|number|no|nr|index)$)|Id$")
Bound = int | float | str


@dataclass(frozen=True, kw_only=True)
class SqlRequest:
    """What a recipe asks for."""

    table: str | None
    query: str | None
    cursor: tuple[str, ...]
    after: Bound | None
    until: Bound | None

    @property
    def name(self) -> str:
        """What the rows are called in their origin."""
        return self.table or "query"


@dataclass(frozen=True)
class RowSelection:
    """The rows that are meant, and the columns that order them and tell them apart."""

    name: str
    rows: TableClause | TextClause
    """A table, a query in brackets, or a query that orders itself."""
    cursor: tuple[str, ...]
    """Empty for a query that orders itself."""
    after: Bound | None = None
    until: Bound | None = None

    def ordered(self, last: Sequence[Any] | None = None) -> Select[Any] | TextClause:
        """All rows in order, or those behind the one whose cursor was `last`."""
        if not self.cursor and isinstance(self.rows, TextClause):
            return self.rows
        columns = [_column(name) for name in self.cursor]
        statement = self.unordered().order_by(*columns)
        return statement if last is None else statement.where(_behind(columns, last))

    def unordered(self, *what: ColumnElement[Any]) -> Select[Any]:
        """The rows within the bounds whose cursor has values, or something told of them all."""
        first = _column(self.cursor[0])
        statement = select(*(what or (literal_column("*"),))).select_from(self.rows)
        statement = statement.where(*(column(name).is_not(None) for name in self.cursor))
        if self.after is not None:
            statement = statement.where(first > _given(self.after))
        return statement if self.until is None else statement.where(first <= _given(self.until))

    def lacking(self) -> Select[Any]:
        """How many rows have no value in a column of the cursor, so that they stand nowhere in the order."""
        nothing = or_(*(column(name).is_(None) for name in self.cursor))
        return select(func.count()).select_from(self.rows).where(nothing)

    def reach(self) -> Select[Any]:
        """How many rows there are, and the least and the greatest value of the first column of the cursor."""
        first = _column(self.cursor[0])
        return self.unordered(func.count(), func.min(first), func.max(first))

    def count(self) -> Select[Any]:
        """How many rows there are."""
        return select(func.count()).select_from(self.named("t"))

    def named(self, name: str) -> FromClause | TextClause:
        """The rows as a table of this name, for questions about them all."""
        if self.cursor:
            return self.unordered().subquery(name)
        assert isinstance(self.rows, TextClause)
        return _bracketed(self.rows.text, name)


def _column(name: str) -> ColumnElement[Any]:
    return column(name)


def _given(value: Any) -> BindParameter[Any]:
    """A value as the driver sends it; the database decides by the column what it is."""
    return bindparam(None, value, type_=NullType(), unique=True)


def _behind(columns: Sequence[ColumnElement[Any]], last: Sequence[Any]) -> ColumnElement[bool]:
    """What stands behind a row in the order: greater in the first column in which they differ."""
    steps = [
        and_(*(columns[at] == _given(last[at]) for at in range(index)), columns[index] > _given(last[index]))
        for index in range(len(columns))
    ]
    return and_(columns[0] >= _given(last[0]), or_(*steps))


def build_selection(connection: Connection, request: SqlRequest) -> RowSelection:
    """The rows that a recipe means; `DataError` when there is no such table, or nothing orders it."""
    if request.query is None:
        rows, cursor = _table(connection, request)
        return RowSelection(request.name, rows, cursor, request.after, request.until)
    query = request.query.strip().rstrip(";").replace(":", r"\:")  # a colon in it means itself
    if not request.cursor:
        return RowSelection(request.name, text(query), ())
    return RowSelection(request.name, _bracketed(query, "luthier_rows"), request.cursor, request.after, request.until)


def _bracketed(query: str, name: str) -> TextClause:
    return text(f"(\n{query}\n) AS {name}")


def _table(connection: Connection, request: SqlRequest) -> tuple[TableClause, tuple[str, ...]]:
    assert request.table is not None
    schema, name = _place(connection, request.table)
    cursor = tuple(dict.fromkeys((*request.cursor, *_key(connection, name, schema))))
    if not cursor:
        hint = "name `cursor`: columns that no two rows share, such as `cursor: id`"
        raise DataError("has no key, so its rows have no order", where=SourceLocation(file=request.table), hint=hint)
    return table(name, schema=schema), cursor


def _key(connection: Connection, name: str, schema: str | None) -> list[str]:
    """The columns of the primary key, or of the first unique index that has no condition."""
    inspector = inspect(connection)
    if primary := inspector.get_pk_constraint(name, schema)["constrained_columns"]:
        return list(primary)
    unique = [index for index in inspector.get_indexes(name, schema) if index["unique"] and not _is_partial(index)]
    columns = sorted(
        [each for each in entry["column_names"] if each] for entry in unique if None not in entry["column_names"]
    )
    return columns[0] if columns else []


def find_unique_column(connection: Connection, written: str) -> str | None:
    """The first column with the name of a key whose values all differ, of a table or view without a key."""
    schema, name = _place(connection, written)
    if _key(connection, name, schema):
        return None
    for entry in inspect(connection).get_columns(name, schema):
        if _NAMES_ROWS.search(entry["name"]):
            counts = select(func.count(), func.count(column(entry["name"]).distinct()))
            every, different = connection.execute(counts.select_from(table(name, schema=schema))).one()
            if every == different > 0:
                return str(entry["name"])
    return None


def _is_partial(index: Any) -> bool:
    return any(
        name.endswith("_where") and value is not None for name, value in index.get("dialect_options", {}).items()
    )


def _place(connection: Connection, written: str) -> tuple[str | None, str]:
    """Schema and name; a table whose own name has a dot in it is found, too."""
    inspector = inspect(connection)
    schema, _, name = written.rpartition(".")
    for candidate in ((None, written), (schema or None, name)):
        if inspector.has_table(candidate[1], candidate[0]):
            return candidate
    hint = did_you_mean(written, list_tables(connection))
    raise DataError("there is no such table or view", where=SourceLocation(file=written), hint=hint)


def list_tables(connection: Connection) -> list[str]:
    """The tables and views of the database: the default schema's by name, others as `schema.name`."""
    inspector = inspect(connection)
    own = {inspector.default_schema_name, "information_schema"}
    others = [name for name in inspector.get_schema_names() if name not in own and not name.startswith("pg_")]
    names: list[str] = []
    for schema in (None, *others):
        before = f"{schema}." if schema else ""
        names += [f"{before}{name}" for name in (*inspector.get_table_names(schema), *inspector.get_view_names(schema))]
    return sorted(names)


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
