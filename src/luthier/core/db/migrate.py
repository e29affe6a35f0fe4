"""Bringing the ledger's tables up to date, safely when several processes open it at once.

Only ever imported inside a verb.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from luthier.core.db.engine import READS
from luthier.core.errors import InputError, SourceLocation

_HERE = Path(__file__).parent / "migrations"
_LOCK = 0x1074_1E12
"""Number of PostgreSQL's advisory lock under which a migration runs."""
_ONE_AT_A_TIME = threading.Lock()
"""Alembic keeps the migration that runs in its module: threads with different databases take turns."""


def latest_revision() -> str:
    """The revision that this version of Luthier works with: the highest number among the migration files."""
    return max(path.name.split("_", 1)[0] for path in (_HERE / "versions").glob("[0-9]*.py"))


def current_revision(connection: Connection) -> str | None:
    """Return the schema revision of the database; None when it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def migrate(engine: Engine, to: str | None = None) -> None:
    """Upgrade (or downgrade, when an older revision or `base` is named) in one transaction."""
    target = to or latest_revision()
    with engine.execution_options(**{READS: True}).connect() as connection:
        found = current_revision(connection)
    if found == target:
        return
    with _lock_exclusively(engine) as connection:
        found = current_revision(connection)
        if to is None and found is not None and found > target:
            what = f"the ledger is of revision {found}; this Luthier knows only up to {target}"
            location = SourceLocation(file=engine.url.render_as_string(hide_password=True))
            raise InputError(what, where=location, hint="pip install --upgrade luthier")
        if found != target:
            _run_migrations(connection, target, down=target == "base" or (found is not None and target < found))


@contextmanager
def _lock_exclusively(engine: Engine) -> Iterator[Connection]:
    """One transaction that no other migration runs beside: SQLite's begins with the write lock."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK})
        yield connection


def _run_migrations(connection: Connection, target: str, *, down: bool) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.attributes["connection"] = connection
    with _ONE_AT_A_TIME:
        (command.downgrade if down else command.upgrade)(config, target)
