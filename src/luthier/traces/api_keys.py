"""Keys of applications: made once and shown once, kept as digests, compared in constant time, revoked by name.

A key is `lk-ID-SECRET`: the id finds its row, and the secret is 256 random bits, so that one SHA-256 of the whole is
digest enough. A key has scopes: `infer` asks models, `tune` uploads files and starts jobs, `explain` asks why models
answer so, `data` reads training rows and traces of other keys, `admin` does everything.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from luthier.core.errors import InputError, SourceLocation, UnknownName, did_you_mean

if TYPE_CHECKING:
    from luthier.core.db import Ledger
    from luthier.core.db.tables.serving import KeyRow

Scope = Literal["infer", "tune", "explain", "data", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
INFER: tuple[Scope, ...] = ("infer",)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_KEY = re.compile(r"lk-([0-9a-f]{12})-[A-Za-z0-9_-]{43}")
_NOBODY = "0" * 64


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who makes a request, and what they may do."""

    key: str | None
    """The name of the key; None where the gateway wants none."""
    scopes: frozenset[Scope] = frozenset(SCOPES)
    requests_per_minute: int | None = None

    def may(self, scope: Scope) -> bool:
        """Whether this is allowed; `admin` may do everything."""
        return scope in self.scopes or "admin" in self.scopes


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key as it is listed: never its secret."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    requests_per_minute: int | None
    made_at: datetime
    revoked_at: datetime | None
    owner: str | None = None
    """The person whose it is."""


class _Known(NamedTuple):
    digest: str
    caller: Caller


class KeyStore:
    """An in-memory snapshot of all API keys, so that requests are authorized without the database."""

    def __init__(self, known: Mapping[str, _Known], *, required: bool) -> None:
        self._known = known
        self.key_required = required
        """Whether a key was ever made; from then on nobody comes in without one."""

    def caller(self, key: str) -> Caller | None:
        """Whose key this is; None when it is nobody's. It takes as long either way."""
        match = _KEY.fullmatch(key)
        known = self._known.get(match[1]) if match else None
        same = hmac.compare_digest(_digest(key), known.digest if known else _NOBODY)
        return known.caller if known and same else None


def add_key(
    ledger: Ledger,
    name: str,
    scopes: Collection[Scope] = INFER,
    requests_per_minute: int | None = None,
    owner: str | None = None,
) -> str:
    """Make a key, and return it: this is the only time that it is seen. That of a person stops with the account."""
    from sqlalchemy import select

    from luthier.core.db.tables.serving import KeyRow

    _check(name, scopes, requests_per_minute)
    key_id = secrets.token_hex(6)
    key = f"lk-{key_id}-{secrets.token_urlsafe(32)}"
    row = KeyRow(
        id=key_id,
        name=name,
        digest=_digest(key),
        scopes=" ".join(scope for scope in SCOPES if scope in scopes),
        requests_per_minute=requests_per_minute,
        made_at=datetime.now(UTC),
        owner=owner,
    )
    with ledger.writing() as session:
        if session.scalar(select(KeyRow.id).where(KeyRow.name == name)):
            what = f"there is, or was, a key named {name!r}"
            raise InputError(what, where=SourceLocation(field="NAME"), hint="traces name it: take another name")
        session.add(row)
    return key


def list_keys(ledger: Ledger) -> list[ApiKey]:
    """All keys, revoked ones too, in the order in which they were made."""
    return [_key(row) for row in _rows(ledger)]


def revoke_key(ledger: Ledger, name: str) -> None:
    """Let a key open nothing any more."""
    from sqlalchemy import select

    from luthier.core.db.tables.serving import KeyRow

    with ledger.writing() as session:
        row = session.scalar(select(KeyRow).where(KeyRow.name == name))
        if row is None:
            known = session.scalars(select(KeyRow.name)).all()
            hint = did_you_mean(name, known)
            raise UnknownName(f"there is no key named {name!r}", where=SourceLocation(field="NAME"), hint=hint)
        row.revoked_at = row.revoked_at or datetime.now(UTC)


def load_key_store(ledger: Ledger) -> KeyStore:
    """Load the API keys that are valid now."""
    rows = _rows(ledger)
    known = {
        row.id: _Known(
            row.digest,
            Caller(key=row.name, scopes=_scopes(row.scopes), requests_per_minute=row.requests_per_minute),
        )
        for row in rows
        if row.revoked_at is None
    }
    return KeyStore(known, required=bool(rows))


NO_KEYS = KeyStore({}, required=False)


def _rows(ledger: Ledger) -> list[KeyRow]:
    from sqlalchemy import select

    from luthier.core.db.tables.serving import KeyRow

    with ledger.reading() as session:
        rows = list(session.scalars(select(KeyRow).order_by(KeyRow.made_at, KeyRow.id)))
        session.expunge_all()
        return rows


def _key(row: KeyRow) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        scopes=tuple(scope for scope in SCOPES if scope in _scopes(row.scopes)),
        requests_per_minute=row.requests_per_minute,
        made_at=row.made_at,
        revoked_at=row.revoked_at,
        owner=row.owner,
    )


def _scopes(text: str) -> frozenset[Scope]:
    return frozenset(scope for scope in SCOPES if scope in text.split())


def _check(name: str, scopes: Collection[Scope], requests_per_minute: int | None) -> None:
    if not _NAME.fullmatch(name):
        what = f"expected a name of letters, digits and ._@- (at most 64), got {name[:80]!r}"
        raise InputError(what, where=SourceLocation(field="NAME"), hint="for example support-bot")
    if not scopes or (unknown := sorted(set(scopes) - set(SCOPES))):
        what = f"there is no scope {unknown[0]!r}" if scopes else "a key without a scope opens nothing"
        raise InputError(what, where=SourceLocation(field="--scope"), hint=f"scopes are {', '.join(SCOPES)}")
    if requests_per_minute is not None and requests_per_minute < 1:
        raise InputError(
            f"expected at least 1, got {requests_per_minute}", where=SourceLocation(field="--requests-per-minute")
        )


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
