"""API keys, and which model a name means at the gateway."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Double, Index, String
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


class ReleaseRow(LedgerBase):
    """The whole state of a name after a change, so that one insert switches it."""

    __tablename__ = "releases"
    __table_args__ = (Index(None, "alias"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(String(128))
    did: Mapped[str] = mapped_column(String(16))
    """What the change was: `release`, `canary`, `shadow`, `promote`, `rollback`, `stop`."""
    at: Mapped[datetime]
    stable: Mapped[dict[str, Any]] = mapped_column(JSON)
    """The model that answers: what it is opened by, and its digest."""
    canary: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    shadow: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    share: Mapped[float] = mapped_column(Double)
    """The share of users whom the canary answers."""
    before: Mapped[int | None]
    """The row to which a rollback goes."""
