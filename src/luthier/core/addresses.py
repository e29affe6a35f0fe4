"""URLs that may hold secrets: where one stands in clear, and how a URL is shown without it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, urlsplit

from luthier.core.paths import is_variable

HIDDEN = "***"
_PASSWORD = re.compile(r"(?P<before>[A-Za-z][\w+.-]*://[^:/@?#]*:)(?P<password>[^@]*)@")
_SECRET_NAMES = re.compile(r"pass|pwd|secret|token|signature|credential|api_?key|access_?key", re.IGNORECASE)
_SECRET_PAIR = re.compile(r"(?P<before>[?&;](?P<name>[^=&;#?]*)=)(?P<value>[^&;#]*)")


def is_database(url: str) -> bool:
    """Whether a URL means a database, not a file: SQLAlchemy knows its scheme; `$NAME` is taken as one, too."""
    if is_variable(url):
        return True
    from sqlalchemy.dialects import registry
    from sqlalchemy.exc import NoSuchModuleError

    try:
        registry.load(url.partition("://")[0].replace("+", ".").replace("postgres:", "postgresql:"))
    except (NoSuchModuleError, ImportError):
        return url.startswith(("postgres", "mysql", "mssql", "oracle", "sqlite"))
    return True


def secret_in_clear(url: str) -> str | None:
    """Where a URL holds a secret that is not `$NAME`: `password`, or the name of a parameter; None when nowhere."""
    found = _PASSWORD.match(url)
    if found and found["password"] and not is_variable(found["password"]):
        return "password"
    for pair in _SECRET_PAIR.finditer(url):
        inner = re.search(r"(?:pwd|password)(?:=|%3d)", pair["value"], re.IGNORECASE)
        if inner or (_SECRET_NAMES.search(pair["name"]) and pair["value"] and not is_variable(pair["value"])):
            return pair["name"]
    return None


def shown(url: str) -> str:
    """The URL as it may be written down: no user, no password, and no value of a parameter that is a secret."""
    bare = re.sub(r"^([A-Za-z][\w+.-]*://)[^/?#]*@", r"\1", url)
    return _SECRET_PAIR.sub(_hide_pair, bare)


def _hide_pair(pair: re.Match[str]) -> str:
    secret = _SECRET_NAMES.search(pair["name"]) and pair["value"]
    return pair["before"] + HIDDEN if secret else pair[0]


def secrets_of(url: str) -> set[str]:
    """The secrets that a URL holds, each as it stands there and as it is meant."""
    found = {match["password"] for match in [_PASSWORD.match(url)] if match}
    pairs = parse_qsl(urlsplit(url).query) if "?" in url else []
    found |= {value for name, value in pairs if _SECRET_NAMES.search(name)}
    return {form for secret in found if secret for form in (secret, quote(secret, safe=""))}


def scrubbed(text: str, secrets: Iterable[str]) -> str:
    """A text in which secrets are hidden, the longest first."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text
