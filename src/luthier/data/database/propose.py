"""A fitting recipe for a table of somebody's database."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from luthier.core.addresses import secret_in_clear
from luthier.core.errors import InputError, Where, did_you_mean
from luthier.data.database.address import Address, address
from luthier.data.database.selection import tables, unique_column
from luthier.data.database.session import connect, snapshot, told
from luthier.data.intake.layouts import Layout
from luthier.data.intake.propose import Proposal, propose_from
from luthier.data.sources.sql import Sql

Answer = TypeVar("Answer")


def propose_table(
    url: str,
    table: str | None,
    base: Path,
    folder: Path,
    wanted: Layout = Layout(),  # noqa: B008 - a tuple
) -> Proposal:
    """Propose a recipe in `folder` for a table; `InputError` asks which when there are several."""
    if (name := secret_in_clear(url)) is not None:
        remedy = "export it, and write its name: 'postgresql://user:$NAME@host/database', in single quotes"
        raise InputError(f"holds a secret in clear ({name})", where=Where(field="--from"), remedy=remedy)
    place = address(url, base)
    chosen = table or _only(place)
    cursor = _asked(place, lambda connection: unique_column(connection, chosen))
    by = {"cursor": cursor} if cursor else {}
    written = _from_folder(url, place, folder)
    read = Sql.model_validate({"url": url, "table": chosen, "on_error": "drop", **by})
    named = {"kind": "sql", "url": written, "table": chosen, **by}
    found = propose_from(read, base, f"{written} ({chosen})", named, wanted=wanted)
    why = "it has no key; these values all differ, so they order the rows"
    return found.model_copy(update={"reasons": {"source.cursor": why, **found.reasons}}) if cursor else found


def _asked(place: Address, ask: Callable[[Connection], Answer]) -> Answer:
    """What the database says."""
    try:
        with snapshot(connect(place), place) as connection:
            return ask(connection)
    except SQLAlchemyError as error:
        raise told(error, place, place.written) from None


def _only(place: Address) -> str:
    found = _asked(place, tables)
    if len(found) == 1:
        return found[0]
    where = Where(file=place.written, field="--table")
    if not found:
        raise InputError("the database has no tables", where=where, remedy="check the URL")
    raise InputError(f"which of its {len(found)} tables?", where=where, remedy=did_you_mean("", found))


def _from_folder(url: str, place: Address, folder: Path) -> str:
    """The URL as a recipe in the folder must write it."""
    if place.file is None or url.startswith("$") or (place.file.is_absolute() and f"sqlite:///{place.file}" == url):
        return url
    return f"sqlite:///{Path(os.path.relpath(place.file, folder)).as_posix()}"
