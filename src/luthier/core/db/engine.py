"""Connections to the ledger's database, and its refusals as one clear error; only ever imported inside a verb."""

from __future__ import annotations

import os
import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DataError, IntegrityError, NoSuchModuleError, ProgrammingError

from luthier.core.errors import (
    CorruptArtifact,
    InputError,
    LuthierError,
    MissingExtra,
    SourceLocation,
    SystemResourceError,
)
from luthier.core.files import translate_write_errors

READS = "luthier_reads"
"""Execution option of a transaction that writes nothing."""
DURABLE = "luthier_durable"
"""Execution option of a transaction that is on the disk when it ends, the power cut included."""
_BUSY_MS = 60_000


def create_ledger_engine(text: str) -> Engine:
    """An engine for `sqlite:///FILE` or `postgresql://…`."""
    url = _url(text)
    with DatabaseErrorTranslator(url):
        if url.get_backend_name() == "sqlite":
            return _sqlite(url)
        return create_engine(url, pool_pre_ping=True)


def _url(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise InputError("is no database URL", where=SourceLocation(field="LUTHIER_LEDGER"), hint=_FORMS) from error
    name = url.get_backend_name()
    if name not in ("sqlite", "postgresql", "postgres"):
        where = SourceLocation(field="LUTHIER_LEDGER")
        raise InputError(f"the ledger does not live on {name!r}", where=where, hint=_FORMS)
    return url if name == "sqlite" else url.set(drivername="postgresql+psycopg")


_FORMS = "use sqlite:///FILE, or postgresql://user:password@host/database"


def _sqlite(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        folder = Path(url.database).parent
        with translate_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if Path(url.database).is_file() and not (os.access(url.database, os.W_OK) and os.access(folder, os.W_OK)):
            return _read_only(url, Path(url.database).absolute())
    engine = create_engine(url, connect_args={"timeout": _BUSY_MS / 1000})
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin_immediate)
    return engine


def _read_only(url: URL, file: Path) -> Engine:
    """What may be read and not written: commands that only look work, and those that write are refused."""

    def opened() -> sqlite3.Connection:
        is_open = file.with_name(f"{file.name}-wal").is_file()  # else SQLite would make one, to read
        how = "mode=ro" if is_open else "mode=ro&immutable=1"
        connection = sqlite3.connect(
            f"{file.as_uri()}?{how}", uri=True, timeout=_BUSY_MS / 1000, check_same_thread=False
        )
        connection.isolation_level = None
        connection.execute("PRAGMA query_only=ON").close()
        return connection

    engine = create_engine(url, creator=opened)
    event.listen(engine, "begin", _begin_immediate)
    return engine


def _prepare(connection: Any, record: object) -> None:
    """Let transactions be ours (the driver's own make DDL half undoable), and readers not wait for a writer."""
    connection.isolation_level = None
    for pragma in (f"busy_timeout={_BUSY_MS}", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_immediate(connection: Connection) -> None:
    """A writer takes the one write lock at once, so that it never finds out half-way that another was first."""
    options = connection.get_execution_options()
    if options.get(READS, False):
        connection.exec_driver_sql("BEGIN")
        return
    connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if options.get(DURABLE, False) else 'NORMAL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")


class DatabaseErrorTranslator(AbstractContextManager[None]):
    """Turns what the database raises into one clear error that names the ledger without its password."""

    def __init__(self, url: URL) -> None:
        self._url = url

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        location = SourceLocation(file=self._url.render_as_string(hide_password=True))
        if isinstance(error, (ModuleNotFoundError, NoSuchModuleError)):
            what = "the ledger's PostgreSQL driver is not installed"
            raise MissingExtra(what, where=location, hint="pip install 'luthier[postgres]'") from error
        if (
            isinstance(error, DatabaseError)
            and not isinstance(error, _OURS)
            and (explained := _explain(str(error.orig), location))
        ):
            raise explained from error


_OURS = (ProgrammingError, IntegrityError, DataError)
"""Mistakes in a statement or its values: never the machine's or the user's."""
_REFUSALS: tuple[tuple[str, type[LuthierError], str, str], ...] = (
    ("disk is full", SystemResourceError, "the disk is full", "free some space (`luthier store gc`)"),
    ("No space left", SystemResourceError, "the disk is full", "free some space on the database's machine"),
    (
        "readonly database",
        SystemResourceError,
        "cannot be written (read-only or not yours)",
        "give yourself the right to write",
    ),
    ("unable to open", SystemResourceError, "cannot be opened or made there", "give yourself the right to write there"),
    (
        "disk I/O error",
        SystemResourceError,
        "the disk answers with an error, or is full",
        "free some space, or check the disk",
    ),
    ("malformed", CorruptArtifact, "is damaged", "move the file away; the next run begins a new ledger"),
    ("not a database", CorruptArtifact, "is no database", "move the file away; the next run begins a new ledger"),
    ("is locked", InputError, "another process has kept it locked for a minute", "wait until that one is done"),
    ("authentication failed", InputError, "refuses this user or password", "check the URL in LUTHIER_LEDGER"),
    ("no password supplied", InputError, "wants a password", "put it into the URL in LUTHIER_LEDGER"),
    ("does not exist", InputError, "the database or user in the URL does not exist", "make it, or check the URL"),
    ("connection", InputError, "cannot be reached", "check that the database runs, and the URL in LUTHIER_LEDGER"),
)


def _explain(text: str, location: SourceLocation) -> LuthierError | None:
    for sign, kind, message, hint in _REFUSALS:
        if sign in text:
            return kind(message, where=location, hint=hint)
    return None
