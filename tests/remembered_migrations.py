"""Empty SQLite ledgers take the statements that migrations left in the first one, which are made twenty times as
fast."""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import Connection

from luthier.core.db import migrate

REAL = "LUTHIER_TESTS_REAL_MIGRATIONS"
"""The variable under which each ledger is made by its migrations, as `tests/core` asks."""


def remember_migrations() -> None:
    """Have `luthier.core.db.migrate` run migrations once in this process for all empty SQLite ledgers."""
    if hasattr(migrate._run_migrations, "once"):
        return
    once, known = migrate._run_migrations, list[tuple[str, tuple[Any, ...]]]()

    def run(connection: Connection, target: str, *, down: bool) -> None:
        is_new = connection.dialect.name == "sqlite" and target == migrate.latest_revision() and REAL not in os.environ
        is_new = is_new and connection.exec_driver_sql("SELECT 1 FROM sqlite_master").first() is None
        statements = list(known) if is_new else []
        for statement, values in statements:
            connection.exec_driver_sql(statement, values)
        if statements:
            return
        once(connection, target, down=down)
        if is_new:
            found = connection.exec_driver_sql(
                "SELECT type, name, sql FROM sqlite_master WHERE sql > '' ORDER BY rowid"
            )
            made: list[tuple[str, tuple[Any, ...]]] = []
            for kind, name, statement in found.all():
                made.append((statement, ()))
                for row in connection.exec_driver_sql(f'SELECT * FROM "{name}"').all() if kind == "table" else ():
                    made.append((f'INSERT INTO "{name}" VALUES ({", ".join("?" * len(row))})', tuple(row)))
            known[:] = made  # at once: threads may make the first ones side by side

    run.once = once  # type: ignore[attr-defined]  # so that it is done once
    migrate._run_migrations = run
