"""Browsers that may use the studio: a one-time link makes one, and the ledger keeps the digest of its cookie."""

from __future__ import annotations

import hashlib
import secrets
import threading
from datetime import UTC, datetime, timedelta

from luthier.core.db import Ledger

COOKIE = "luthier_studio"
LIFE = timedelta(days=14)


class BrowserSessions:
    """The sessions of a workspace's browsers. A session is a random text that only its browser has."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._links: set[str] = set()
        self._turn = threading.Lock()

    def create_link_token(self) -> str:
        """A token that opens the studio once."""
        token = secrets.token_urlsafe(32)
        with self._turn:
            self._links.add(token)
        return token

    def open(self, token: str) -> str | None:
        """The cookie of a new session for a link's token; None where the token is unknown, or used already."""
        from sqlalchemy import delete

        from luthier.core.db.tables.studio import BrowserSessionRow

        with self._turn:
            if token not in self._links:
                return None
            self._links.discard(token)
        cookie, now = secrets.token_urlsafe(32), datetime.now(UTC)
        with self._ledger.writing() as session:
            session.execute(delete(BrowserSessionRow).where(BrowserSessionRow.expires_at < now))
            session.add(BrowserSessionRow(digest=_digest(cookie), made_at=now, expires_at=now + LIFE))
        return cookie

    def is_open(self, cookie: str) -> bool:
        """Whether a cookie is that of a session that goes on."""
        from luthier.core.db.tables.studio import BrowserSessionRow

        if not cookie:
            return False
        with self._ledger.reading() as session:
            row = session.get(BrowserSessionRow, _digest(cookie))
            return row is not None and row.expires_at > datetime.now(UTC)

    def close(self, cookie: str) -> None:
        """End a session."""
        from sqlalchemy import delete

        from luthier.core.db.tables.studio import BrowserSessionRow

        with self._ledger.writing() as session:
            session.execute(delete(BrowserSessionRow).where(BrowserSessionRow.digest == _digest(cookie)))


def form_token(cookie: str) -> str:
    """What every form of a session carries, so that no other page can send one."""
    return hashlib.sha256(f"form:{cookie}".encode()).hexdigest()


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
