"""Database addresses: a URL whose secrets stand in environment variables, never in what is written or printed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from luthier.core.errors import DataError, SourceLocation
from luthier.core.files import expand_env_vars, find_env_vars, is_env_var, resolve_path
from luthier.core.system.net import redact_secrets, secrets_of

FORMS = "use postgresql://user:$PASSWORD@host/database, sqlite:///file.db, or $NAME for the whole URL"


@dataclass(frozen=True)
class DatabaseAddress:
    """A database's URL as it was written and as it is."""

    written: str
    """What errors show: `$NAME` in place of what the environment says."""
    url: URL
    secrets: tuple[str, ...]
    """What may stand in no message."""

    @property
    def file(self) -> Path | None:
        """The file of an SQLite database."""
        return Path(str(self.url.database)) if self.url.get_backend_name() == "sqlite" else None

    def scrubbed(self, text: str) -> str:
        """A message without the secrets."""
        return redact_secrets(text, self.secrets)


def parse_database_address(written: str, recipe_dir: Path) -> DatabaseAddress:
    """The database that a written URL means; an SQLite file starts at `recipe_dir`."""
    text = expand_env_vars(written) if is_env_var(written) else written
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise DataError("is no database URL", where=SourceLocation(file=written), hint=FORMS) from None
    url = _in_place(_filled(url), written, recipe_dir)
    named = {os.environ.get(name, "") for name in find_env_vars(written)}
    secrets = {*named, *secrets_of(url.render_as_string(hide_password=False)), str(url.password or "")}
    return DatabaseAddress(written, url, tuple(sorted(filter(None, secrets))))


def _filled(url: URL) -> URL:
    """The URL with the environment's values in its parts, where no sign in them can be mistaken for a separator."""
    named = {"username": url.username, "password": url.password, "host": url.host, "database": url.database}
    parts = {name: expand_env_vars(str(value)) for name, value in named.items() if value}
    query = {name: expand_env_vars(value) if isinstance(value, str) else value for name, value in url.query.items()}
    return url.set(**parts, query=query)  # type: ignore[arg-type]  # a mapping of parts by their names


def _in_place(url: URL, written: str, recipe_dir: Path) -> URL:
    name = url.get_backend_name()
    if name in ("postgresql", "postgres") and url.drivername in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if name != "sqlite":
        return url
    if not url.database or url.database == ":memory:":
        raise DataError("names no file", where=SourceLocation(file=written), hint="write sqlite:///file.db")
    return url.set(database=str(resolve_path(url.database, recipe_dir)), query={})
