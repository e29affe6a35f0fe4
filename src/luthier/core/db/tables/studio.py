"""Runs that wait for their turn, and the browsers that may use the studio."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, Double, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from luthier.core.db.tables.base import LedgerBase


class QueuedRunRow(LedgerBase):
    """One run of a recipe that was asked for; what it made stands in `runs` once it has begun."""

    __tablename__ = "queued_runs"
    __table_args__ = (
        CheckConstraint("state IN ('queued', 'running', 'done', 'failed', 'interrupted', 'cancelled')", name="state"),
        Index(None, "state", "position"),
        Index(None, "recipe_file", "requested_at"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    recipe_file: Mapped[str]
    """The recipe, from the folder of the workspace."""
    overrides: Mapped[list[str]]
    state: Mapped[str] = mapped_column(String(16))
    position: Mapped[float] = mapped_column(Double)
    """Whose turn is next: the lowest."""
    requested_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    stopped_at: Mapped[datetime | None]
    """When it was told to stop."""
    finished_at: Mapped[datetime | None]
    process: Mapped[str | None]
    """Which process runs it (`luthier.core.system.process`)."""
    run: Mapped[str | None] = mapped_column(String(32))
    """Its id in `runs`, in the ledger of the recipe."""
    exit_code: Mapped[int | None]
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class BrowserSessionRow(LedgerBase):
    """A browser that opened the studio's link, or in which somebody logged in; only the digest of its cookie is
    kept."""

    __tablename__ = "browser_sessions"
    __table_args__ = (Index(None, "person"),)

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    made_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    person: Mapped[str | None] = mapped_column(String(64))
    """Who logged in; None for the link, which opens a studio without accounts."""
    browser: Mapped[str | None] = mapped_column(String(256))
    """What the browser calls itself, so that its owner knows it again."""
