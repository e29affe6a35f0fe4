"""A fitting recipe for a table of somebody's database."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from luthier.core.errors import InputError, SourceLocation, did_you_mean
from luthier.core.system.net import find_plain_secret
from luthier.data.columns.layouts import Layout
from luthier.data.database.address import DatabaseAddress, parse_database_address
from luthier.data.database.selection import find_unique_column, list_tables
from luthier.data.database.session import create_source_engine, open_snapshot_transaction, to_data_error
from luthier.data.sources.sql import Sql
from luthier.data.suggest.propose import RecipeProposal, Want, propose_recipe_from_source

Answer = TypeVar("Answer")


def propose_table_recipe(
    url: str,
    table: str | None,
    recipe_dir: Path,
    folder: Path,
    requested_layout: Layout = Layout(),  # noqa: B008 - a tuple
    want: Want | None = None,
) -> RecipeProposal:
    """Propose a recipe in `folder` for a table; `InputError` asks which when there are several."""
    if (name := find_plain_secret(url)) is not None:
        hint = "export it, and write its name: 'postgresql://user:$NAME@host/database', in single quotes"
        raise InputError(f"holds a secret in clear ({name})", where=SourceLocation(field="--from"), hint=hint)
    database_address = parse_database_address(url, recipe_dir)
    chosen = table or _only(database_address)
    cursor = _asked(database_address, lambda connection: find_unique_column(connection, chosen))
    by = {"cursor": cursor} if cursor else {}
    written = _from_folder(url, database_address, folder)
    read = Sql.model_validate({"url": url, "table": chosen, "on_error": "drop", **by})
    named = {"kind": "sql", "url": written, "table": chosen, **by}
    recipe_proposal = propose_recipe_from_source(
        read, recipe_dir, f"{written} ({chosen})", named, requested_layout=requested_layout, want=want
    )
    why = "it has no key; these values all differ, so they order the rows"
    return (
        recipe_proposal.model_copy(update={"reasons": {"source.cursor": why, **recipe_proposal.reasons}})
        if cursor
        else recipe_proposal
    )


def _asked(address: DatabaseAddress, ask: Callable[[Connection], Answer]) -> Answer:
    """What the database says."""
    try:
        with open_snapshot_transaction(create_source_engine(address), address) as connection:
            return ask(connection)
    except SQLAlchemyError as error:
        raise to_data_error(error, address, address.written) from None


def list_database_tables(url: str, recipe_dir: Path) -> list[str]:
    """The tables and views of a database, by name; `DataError` where it cannot be reached."""
    return _asked(parse_database_address(url, recipe_dir), list_tables)


def _only(address: DatabaseAddress) -> str:
    found = _asked(address, list_tables)
    if len(found) == 1:
        return found[0]
    where = SourceLocation(file=address.written, field="--table")
    if not found:
        raise InputError("the database has no tables", where=where, hint="check the URL")
    raise InputError(f"which of its {len(found)} tables?", where=where, hint=did_you_mean("", found))


def _from_folder(url: str, address: DatabaseAddress, folder: Path) -> str:
    """The URL as a recipe in the folder must write it."""
    if (
        address.file is None
        or url.startswith("$")
        or (address.file.is_absolute() and f"sqlite:///{address.file}" == url)
    ):
        return url
    return f"sqlite:///{Path(os.path.relpath(address.file, folder)).as_posix()}"
