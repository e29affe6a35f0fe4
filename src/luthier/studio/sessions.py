"""Browsers that may use the studio: a one-time link or a login makes one, and the ledger keeps the digest of its
cookie."""

from __future__ import annotations

import hashlib
import secrets
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from luthier.core.db import Ledger
from luthier.core.system.process import get_user_name
from luthier.people.accounts import exist_accounts, has_accounts, roles_of
from luthier.people.rights import WORKSPACE, Person

COOKIE = "luthier_studio"
LIFE = timedelta(days=14)
_SHOWN = 16


class Visitor(NamedTuple):
    """Who a cookie is of."""

    person: Person | None
    accounts: bool
    """Whether people log in here."""


@dataclass(frozen=True, kw_only=True)
class BrowserSession:
    """A session as its owner sees it."""

    id: str
    """The beginning of its digest."""
    browser: str
    made_at: datetime
    expires_at: datetime
    is_own: bool
    """Whether it is the one that asks."""


class BrowserSessions:
    """The sessions of a workspace's browsers. A session is a random text that only its browser has."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._links: set[str] = set()
        self._turn = threading.Lock()

    def create_link_token(self) -> str:
        """A token that opens a studio without accounts once."""
        token = secrets.token_urlsafe(32)
        with self._turn:
            self._links.add(token)
        return token

    def open(self, token: str) -> str | None:
        """The cookie of a new session for a link's token; None where the token is unknown, or used already, or people
        log in here."""
        with self._turn:
            if token not in self._links or has_accounts(self._ledger):
                return None
            self._links.discard(token)
        return self.start(None)

    def start(self, person: str | None, *, browser: str = "", former: str = "") -> str:
        """The cookie of a new session; the one that the browser had before ends, so that none can be planted."""
        from sqlalchemy import delete, or_

        from luthier.core.db.tables.studio import BrowserSessionRow

        cookie, now = secrets.token_urlsafe(32), datetime.now(UTC)
        row = BrowserSessionRow(
            digest=digest_cookie(cookie), made_at=now, expires_at=now + LIFE, person=person, browser=browser[:256]
        )
        over = or_(BrowserSessionRow.expires_at < now, BrowserSessionRow.digest == digest_cookie(former))
        with self._ledger.writing() as session:
            session.execute(delete(BrowserSessionRow).where(over))
            session.add(row)
        return cookie

    def find(self, cookie: str) -> Visitor:
        """Who a cookie is of: nobody when its session is over, was revoked, or was made by the link before there were
        accounts."""
        from luthier.core.db.tables.people import PersonRow
        from luthier.core.db.tables.studio import BrowserSessionRow

        with self._ledger.reading() as session:
            row = session.get(BrowserSessionRow, digest_cookie(cookie)) if cookie else None
            if row is None or row.expires_at <= datetime.now(UTC):
                return Visitor(None, exist_accounts(session))
            if row.person is None:
                accounts = exist_accounts(session)
                return Visitor(None if accounts else machine_user(), accounts)
            person_row = session.get(PersonRow, row.person)
            if person_row is None or person_row.removed_at is not None:
                return Visitor(None, accounts=True)
            return Visitor(Person(person_row.id, person_row.name, roles_of(session, person_row.id)), accounts=True)

    def close(self, cookie: str) -> None:
        """End a session."""
        from sqlalchemy import delete

        from luthier.core.db.tables.studio import BrowserSessionRow

        with self._ledger.writing() as session:
            session.execute(delete(BrowserSessionRow).where(BrowserSessionRow.digest == digest_cookie(cookie)))

    def list_of(self, person: str, cookie: str) -> list[BrowserSession]:
        """The sessions of a person, the latest first."""
        from sqlalchemy import select

        from luthier.core.db.tables.studio import BrowserSessionRow

        own = BrowserSessionRow.person == person, BrowserSessionRow.expires_at > datetime.now(UTC)
        with self._ledger.reading() as session:
            rows = session.scalars(select(BrowserSessionRow).where(*own).order_by(BrowserSessionRow.made_at.desc()))
            return [
                BrowserSession(
                    id=row.digest[:_SHOWN], browser=row.browser or "", made_at=row.made_at, expires_at=row.expires_at,
                    is_own=row.digest == digest_cookie(cookie),
                )
                for row in rows
            ]  # fmt: skip

    def revoke(self, person: str, id: str) -> None:
        """End one of a person's own sessions."""
        from sqlalchemy import delete

        from luthier.core.db.tables.studio import BrowserSessionRow

        own = BrowserSessionRow.person == person, BrowserSessionRow.digest.startswith(id, autoescape=True)
        with self._ledger.writing() as session:
            session.execute(delete(BrowserSessionRow).where(*own))


def machine_user() -> Person:
    """The user of this machine, who may do everything where there are no accounts."""
    return Person(get_user_name(), get_user_name(), {WORKSPACE: "owner"})


def form_token(cookie: str) -> str:
    """What every form of a session carries, so that no other page can send one."""
    return hashlib.sha256(f"form:{cookie}".encode()).hexdigest()


def digest_cookie(cookie: str) -> str:
    """What is kept of a cookie."""
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).hexdigest()
