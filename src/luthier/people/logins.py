"""Logging in by a password: guessing is slowed down, and nobody learns which names there are."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from luthier.core.errors import LuthierError
from luthier.people.accounts import find_row, insert_person, list_accounts, roles_of
from luthier.people.audit import add_entry, lock_head
from luthier.people.invitations import accept_invitation
from luthier.people.oidc import Identity, OidcSettings
from luthier.people.passwords import hash_password, needs_rehash, verify_password
from luthier.people.rights import WORKSPACE, Person

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from luthier.core.db import Ledger

_WINDOW = timedelta(hours=1)


class _Pace(NamedTuple):
    """How many attempts are free, and how long the wait grows that doubles with each one after them."""

    free: int
    least_s: float
    most_s: float

    def wait_s(self, failed: int) -> float:
        return 0.0 if failed < self.free else min(self.most_s, self.least_s * 2.0 ** min(failed - self.free, 20))


_ACCOUNT, _ADDRESS = _Pace(5, 1.0, 60.0), _Pace(30, 1.0, 900.0)
"""An account waits a minute at most, so that whoever guesses cannot lock its owner out."""


class LoginRefused(LuthierError):
    """The name or the password is wrong; it does not say which."""


class TooManyLogins(LuthierError):
    """Too many attempts failed: the next one has to wait."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("too many attempts to log in failed", hint=f"try again in {max(1, round(wait_s))} seconds")
        self.wait_s = wait_s


def log_in(ledger: Ledger, name: str, password: str, address: str) -> Person:
    """The person with this name and password; `LoginRefused` else, `TooManyLogins` when it is not yet time.

    The attempt is written down before the password is looked at, so that many at once count as many.
    """
    from sqlalchemy import delete

    from luthier.core.db.tables.people import LoginAttemptRow, PersonRow

    account = hashlib.sha256(name.strip().lower().encode("utf-8", "surrogatepass")).hexdigest()
    _count_attempt(ledger, account, address)
    with ledger.reading() as session:
        row = session.get(PersonRow, name.strip().lower()[:64])
        digest = row.password if row is not None and row.removed_at is None else None
        known = "" if row is None else row.id
    if not verify_password(digest, password) or digest is None:
        with ledger.writing() as session:
            add_entry(session, "", "login.failed", whom=known)
        raise LoginRefused("the name or the password is wrong", hint="ask an owner of the workspace for a new password")
    new = hash_password(password) if needs_rehash(digest) else digest
    with ledger.writing() as session:
        row = find_row(session, name)
        if row.password == digest:
            row.password = new
        session.execute(delete(LoginAttemptRow).where(LoginAttemptRow.account == account))
        add_entry(session, row.id, "login")
        return Person(row.id, row.name, roles_of(session, row.id))


def _read_clock() -> datetime:
    return datetime.now(UTC)


def _count_attempt(ledger: Ledger, account: str, address: str) -> None:
    """Count an attempt; `TooManyLogins` when the last ones failed and their wait is not over."""
    from sqlalchemy import delete

    from luthier.core.db.tables.people import LoginAttemptRow

    now = _read_clock()
    with ledger.writing() as session:
        lock_head(session)  # of several attempts at once, each sees those before it
        session.execute(delete(LoginAttemptRow).where(LoginAttemptRow.at < now - _WINDOW))
        waits = [
            _wait_s(session, LoginAttemptRow.account == account, _ACCOUNT, now),
            _wait_s(session, LoginAttemptRow.address == address[:64], _ADDRESS, now),
        ]
        if max(waits) <= 0:
            session.add(LoginAttemptRow(account=account, address=address[:64], at=now))
    if max(waits) > 0:
        raise TooManyLogins(max(waits))


def _wait_s(session: Session, condition: object, pace: _Pace, now: datetime) -> float:
    from sqlalchemy import func, select

    from luthier.core.db.tables.people import LoginAttemptRow

    query = select(func.count(), func.max(LoginAttemptRow.at)).where(condition)  # type: ignore[arg-type]
    failed, last = session.execute(query).one()
    if last is None:
        return 0.0
    last = last if last.tzinfo else last.replace(tzinfo=UTC)
    return float(pace.wait_s(int(failed)) - (now - last).total_seconds())


def log_in_identity(ledger: Ledger, identity: Identity, settings: OidcSettings, invitation: str = "") -> Person:
    """The person of an identity at an OpenID provider; a new account by an invitation, or by the domain of a verified
    e-mail address. `LoginRefused` else.
    """
    from luthier.core.db.tables.people import IdentityRow

    key = identity.issuer, identity.subject
    with ledger.writing() as session:
        identity_row = session.get(IdentityRow, key)
        if identity_row is not None:
            row = find_row(session, identity_row.person)
            add_entry(session, row.id, "login", provider=identity.issuer)
            return Person(row.id, row.name, roles_of(session, row.id))
    id = _free_name(ledger, identity.handle)
    name, email = identity.name, identity.email or None
    if invitation:
        return accept_invitation(ledger, invitation, id, identity=key, name=name, email=email)
    if identity.email.rpartition("@")[2].lower() not in {domain.lower() for domain in settings.domains} - {""}:
        raise LoginRefused("nobody here is known by this login", hint="ask an owner of the workspace for an invitation")
    with ledger.writing() as session:
        person = insert_person(session, id, roles={WORKSPACE: settings.role}, by=id, name=name, email=email)
        session.add(IdentityRow(issuer=key[0], subject=key[1], person=id))
        add_entry(session, id, "login", provider=identity.issuer)
        return person


def _free_name(ledger: Ledger, handle: str) -> str:
    """A name like a handle that no account has, or had."""
    plain = re.sub(r"[^a-z0-9._@-]+", "-", handle.lower()).strip("-._@")[:56] or "person"
    taken = {account.id for account in list_accounts(ledger, removed=True)}
    return next(name for name in (plain, *(f"{plain}-{at}" for at in range(2, 10_000))) if name not in taken)
