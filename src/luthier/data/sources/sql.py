"""A table or a query of a database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from luthier.core.files import EnvVarMarker
from luthier.core.system.net import find_plain_secret
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import Say, Source

if TYPE_CHECKING:
    from luthier.data.database.selection import SqlRequest

_SELECTS = re.compile(r"\A[\s(]*(?:select|with|values|table)\b", re.IGNORECASE)
_ORDERED = re.compile(r"\border\s+by\b", re.IGNORECASE)


class Sql(Source):
    """A table or a query of a database, read in a read-only transaction, a thousand rows at a time.

    Rows come in the order of the cursor, or of the table's primary or unique key. When the connection drops, a new one
    goes on behind the last row. A broken row is named by its key: its line, when the key is one number.
    """

    kind: Literal["sql"] = "sql"

    url: Annotated[str, Field(min_length=1), EnvVarMarker()]
    """SQLAlchemy's URL of the database: `postgresql://user:$PASSWORD@host/name`, `sqlite:///file.db` (from the recipe's
    folder), or `$NAME` for the whole. A password must come from the environment."""
    table: str | None = Field(default=None, min_length=1)
    """The table or view that is read whole; `schema.name` outside the default schema."""
    query: str | None = Field(default=None, min_length=1)
    """A SELECT in place of a table; it orders its rows itself when no cursor does."""
    cursor: Annotated[str, Field(min_length=1)] | tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """The column, or columns, that order the rows and that no two rows share, such as `id` or `[updated_at, id]`; a
    table's own key is added by itself. An index over them keeps reading quick."""
    after: int | float | str | None = None
    """Only rows whose first cursor column is above this: what came since the last time."""
    until: int | float | str | None = None
    """Only rows whose first cursor column is at most this: a table that still grows stands still below it."""
    changed_by: Literal["rows", "cursor"] = "rows"
    """What makes the data set anew: `rows`, any change of any row (all are read once to know; PostgreSQL does it
    itself); `cursor`, a change in how many rows there are or in the least or greatest cursor value: quick, but blind
    to rows that are edited in place, unless the cursor is a column that every edit moves."""
    retries: int = Field(default=5, ge=0, le=100)
    """How often in a row a dropped connection is made anew, after 0.5 s and twice as long each time."""

    @field_validator("url")
    @classmethod
    def _no_secret_in_clear(cls, url: str) -> str:
        if (name := find_plain_secret(url)) is not None:
            raise ValueError(f"holds a secret in clear ({name}); write $NAME there, and export NAME=… before the run")
        return url

    @model_validator(mode="after")
    def _one_thing_in_order(self) -> Sql:
        if (self.table is None) == (self.query is None):
            raise ValueError("wants either `table` or `query`; name one of them")
        if self.query is not None and not _SELECTS.match(self.query):
            raise ValueError("`query` is no SELECT; nothing else is run")
        if self.query is not None and not self.cursor and not _ORDERED.search(self.query):
            raise ValueError("`query` has no order, so it could differ each time; name `cursor`, or end with ORDER BY")
        for name in ("after", "until"):
            if getattr(self, name) is not None and not self.cursor:
                raise ValueError(f"`{name}` is a value of the cursor; name `cursor`")
        if self.changed_by == "cursor" and not self.cursor:
            raise ValueError("`changed_by: cursor` looks at the cursor; name `cursor`")
        return self

    @property
    def sql_request(self) -> SqlRequest:
        """What is read."""
        from luthier.data.database.selection import SqlRequest

        cursor = (self.cursor,) if isinstance(self.cursor, str) else self.cursor
        return SqlRequest(table=self.table, query=self.query, cursor=cursor, after=self.after, until=self.until)

    def check_installed(self, recipe_dir: Path) -> None:
        """`MissingExtra` when SQLAlchemy has no driver for the database; an address that is none is said by `read`."""
        from luthier.core.errors import InputError, MissingExtra
        from luthier.data.database.address import parse_database_address
        from luthier.data.database.session import create_source_engine

        try:
            create_source_engine(parse_database_address(self.url, recipe_dir)).dispose()
        except MissingExtra:
            raise
        except InputError:
            return

    def read(self, recipe_dir: Path, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield every row in order; a row's line is its key when that is one number, else its number from 1."""
        from luthier.data.database.address import parse_database_address
        from luthier.data.database.reading import SqlReader

        return SqlReader(parse_database_address(self.url, recipe_dir), self.sql_request, self.retries, say).records()

    @property
    def living(self) -> bool:
        """Rows come and change while others are read."""
        return True

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """A digest of the rows, or of the cursor's reach; None when they cannot be read (`read` says why)."""
        from luthier.core.errors import LuthierError
        from luthier.data.database.address import parse_database_address
        from luthier.data.database.selection import digest_selected_rows

        try:
            return digest_selected_rows(
                parse_database_address(self.url, recipe_dir), self.sql_request, by_cursor=self.changed_by == "cursor"
            )
        except LuthierError:
            return None

    def size(self, recipe_dir: Path) -> int | None:
        """The number of rows times the mean length of the first ones."""
        from luthier.core.errors import LuthierError
        from luthier.data.database.address import parse_database_address
        from luthier.data.database.selection import estimate_selection_bytes

        try:
            return estimate_selection_bytes(parse_database_address(self.url, recipe_dir), self.sql_request)
        except LuthierError:
            return None
