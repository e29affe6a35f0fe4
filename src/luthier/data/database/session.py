"""Sessions with a database: read only, on one snapshot, with the same settings wherever it runs."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, Transaction, create_engine, event
from sqlalchemy.exc import DBAPIError, InterfaceError, NoSuchModuleError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from luthier.core.errors import DataError, MissingExtra, SourceLocation
from luthier.data.database.address import DatabaseAddress

_BUSY_S = 60.0
_CONNECT_S = 15
_SETTINGS = {
    "client_encoding": "UTF8",
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "search_path": None,
}
"""PostgreSQL's settings that change how values read; the same for everybody who reads. None: as the user has it."""


class UndecodableText(bytes):
    """Text of an SQLite database that is no UTF-8."""


def create_source_engine(address: DatabaseAddress) -> Engine:
    """An engine that opens a connection each time it is asked."""
    if address.file is not None:
        return _sqlite(address)
    try:
        is_postgres = address.url.get_backend_name() == "postgresql"
        more: dict[str, Any] = {"connect_args": {"connect_timeout": _CONNECT_S}} if is_postgres else {}
        more["pool_logging_name"] = _quiet()
        engine = create_engine(address.url, poolclass=NullPool, hide_parameters=True, **more)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise _no_driver(address, error) from None
    if is_postgres:
        event.listen(engine, "connect", _settle_postgres)
    return engine


def _quiet() -> str:
    """The name under which a connection that cannot be closed any more is logged, and not shown: it is raised, too."""
    logger = logging.getLogger(f"{NullPool.__module__}.{NullPool.__name__}.luthier")
    if not logger.handlers:
        logger.propagate = False
        logger.addHandler(logging.NullHandler())
    return "luthier"


def _no_driver(address: DatabaseAddress, error: Exception) -> MissingExtra:
    if address.url.get_backend_name() == "postgresql":
        hint = "pip install 'luthier[postgres]'"
    else:
        hint = "install SQLAlchemy's dialect and the driver for this database"
    return MissingExtra(f"its driver is not installed: {error}", where=SourceLocation(file=address.written), hint=hint)


def _sqlite(address: DatabaseAddress) -> Engine:
    if not address.file or not address.file.is_file():
        raise DataError("there is no such file", where=SourceLocation(file=address.written), hint="check `url`")
    target = f"file:{quote(str(address.file))}?mode=ro"

    def open_it() -> sqlite3.Connection:
        connection = sqlite3.connect(target, uri=True, timeout=_BUSY_S, isolation_level=None)
        connection.text_factory = _text
        connection.execute("PRAGMA query_only=ON").close()
        return connection

    engine = create_engine("sqlite://", creator=open_it, poolclass=NullPool, hide_parameters=True)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _text(raw: bytes) -> str | UndecodableText:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return UndecodableText(raw)


def _settle_postgres(connection: Any, record: object) -> None:
    """Make values read alike, and times that Python has no value for (`infinity`, BC) come as text."""
    from psycopg.types.datetime import DateLoader, TimestampLoader, TimestamptzLoader

    with connection.cursor() as cursor:
        for name, value in _SETTINGS.items():
            if value is not None:
                cursor.execute(f"SET {name} TO '{value}'")
    connection.commit()
    for name, base in (("date", DateLoader), ("timestamp", TimestampLoader), ("timestamptz", TimestamptzLoader)):
        connection.adapters.register_loader(name, _forgiving(base))


def _forgiving(base: type[Any]) -> type[Any]:
    from psycopg import DataError as Unloadable

    class Forgiving(base):  # type: ignore[misc]  # a loader of psycopg's
        def load(self, data: Any) -> Any:
            try:
                return super().load(data)
            except Unloadable:
                return bytes(data).decode()

    return Forgiving


@contextmanager
def open_snapshot_transaction(engine: Engine, address: DatabaseAddress) -> Iterator[Connection]:
    """Open a read-only transaction in which all queries see one state of the database (PostgreSQL and SQLite)."""
    with open_connection(engine, address) as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with connection.begin() as transaction:
            try:
                yield connection
            finally:
                if transaction.is_active and not connection.invalidated:
                    _roll_back(connection, transaction)


def _roll_back(connection: Connection, transaction: Transaction) -> None:
    """End a transaction; one whose connection is lost has ended with it."""
    try:
        transaction.rollback()
    except DBAPIError as error:
        if not is_connection_lost(error):
            raise
        connection.invalidate()


@contextmanager
def open_connection(engine: Engine, address: DatabaseAddress) -> Iterator[Connection]:
    """A connection; a missing driver is said."""
    try:
        connection = engine.connect()
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise _no_driver(address, error) from None
    with connection:
        yield connection


def is_connection_lost(error: SQLAlchemyError) -> bool:
    """Whether the connection went away, so that a new one may help."""
    if not isinstance(error, DBAPIError):
        return False
    text = str(error.orig).lower()
    gone = any(sign in text for sign in ("connection", "server closed", "terminating", "shut"))
    return error.connection_invalidated or (isinstance(error, (OperationalError, InterfaceError)) and gone)


def to_data_error(error: SQLAlchemyError, address: DatabaseAddress, name: str) -> DataError:
    """What the database refused, in one sentence that holds no secret and no value of a row."""
    text = str(error.orig if isinstance(error, DBAPIError) else error)
    driver_message = address.scrubbed(text.strip().split("\n", 1)[0])[:300]
    for signs, message, hint in _REFUSALS:
        if any(sign in text for sign in signs):
            return DataError(f"{message}: {driver_message}", where=SourceLocation(file=address.written), hint=hint)
    hint = "check `table`, `query` and `cursor`; try the query in the database's own shell"
    return DataError(f"the database refuses: {driver_message}", where=SourceLocation(file=name), hint=hint)


_REFUSALS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("authentication failed", "no password supplied"), "refuses this user or password", "check the secret in `url`"),
    (
        ("read-only transaction", "readonly database", "data-modifying"),
        "is only read, and the query writes",
        "write a SELECT",
    ),
    (("not a database", "malformed"), "is no database, or a damaged one", "check `url`, and the file"),
    (("is locked",), "another program has kept it locked for a minute", "wait until that one is done"),
    (
        ("connection", "could not translate host", "unable to open", "server closed", "timeout expired"),
        "cannot be reached",
        "check that the database runs, and `url`",
    ),
)
