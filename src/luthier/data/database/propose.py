"""A fitting recipe for a table of somebody's database."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from luthier.core.addresses import secret_in_clear
from luthier.core.errors import InputError, Where, did_you_mean
from luthier.data.database.address import Address, address
from luthier.data.database.selection import tables
from luthier.data.database.session import connect, snapshot, told
from luthier.data.intake.propose import Proposal, propose_from
from luthier.data.sources.sql import Sql


def propose_table(url: str, table: str | None, base: Path, folder: Path) -> Proposal:
    """Propose a recipe in `folder` for a table; `InputError` asks which when there are several."""
    if (name := secret_in_clear(url)) is not None:
        remedy = "export it, and write its name: 'postgresql://user:$NAME@host/database', in single quotes"
        raise InputError(f"holds a secret in clear ({name})", where=Where(field="--from"), remedy=remedy)
    place = address(url, base)
    chosen = table or _only(place)
    written = _from_folder(url, place, folder)
    read = Sql(url=url, table=chosen, on_error="drop")
    return propose_from(read, base, f"{written} ({chosen})", {"kind": "sql", "url": written, "table": chosen})


def _only(place: Address) -> str:
    try:
        with snapshot(connect(place), place) as connection:
            found = tables(connection)
    except SQLAlchemyError as error:
        raise told(error, place, place.written) from None
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
