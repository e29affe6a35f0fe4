"""Conditions on rows of the ledger that files and jobs have in common."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from luthier.core.db.tables.jobs import FileRow, JobRow


def build_owner_condition(rows: type[FileRow | JobRow], key: str | None) -> ColumnElement[bool]:
    """Return the condition for one key's rows; for unowned rows without keys."""
    return rows.key.is_(None) if key is None else rows.key == key


def sort_key(rows: type[FileRow | JobRow]) -> Any:
    """Return the order of rows: creation time, then name."""
    from sqlalchemy import tuple_

    return tuple_(rows.made_at, rows.id)


def build_cursor_tuple(made_at: datetime, name: str) -> Any:
    """The place of one of them."""
    from sqlalchemy import literal, tuple_

    from luthier.core.db.tables.base import UtcDateTime

    return tuple_(literal(made_at, UtcDateTime()), literal(name))
