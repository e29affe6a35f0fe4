"""Keys with which applications come to the gateway."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from luthier.core.db.tables.base import LedgerBase


class KeyRow(LedgerBase):
    """One key: of its secret only a digest is kept. A revoked one stays, so that its name still means something."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    """The part of the key that may be shown."""
    name: Mapped[str] = mapped_column(String(64), unique=True)
    digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the whole key, in hexadecimal."""
    scopes: Mapped[str] = mapped_column(String(64))
    """Names with blanks between."""
    requests_per_minute: Mapped[int | None]
    made_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    owner: Mapped[str | None] = mapped_column(String(128))
    """The person it belongs to: it is revoked when the person is removed."""
