"""Jobs that runs handed to schedulers."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from luthier.core.db.tables.base import LedgerBase


class LaunchRow(LedgerBase):
    """One job of a scheduler, which makes one step's artifact."""

    __tablename__ = "launches"
    __table_args__ = (
        CheckConstraint("state IN ('submitted', 'done', 'failed', 'cancelled')", name="state"),
        Index(None, "job", "state"),
        Index(None, "recipe", "folder", "state"),
        Index(None, "submitted_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    executor: Mapped[str] = mapped_column(String(64))
    """The kind of the executor."""
    job: Mapped[str] = mapped_column(String(64))
    """What the job is called where it runs."""
    store: Mapped[str]
    step: Mapped[str]
    artifact: Mapped[str] = mapped_column(String(64))
    """The digest of what it makes."""
    recipe: Mapped[str]
    folder: Mapped[str]
    """The recipe's name and folder."""
    run: Mapped[str | None] = mapped_column(String(32))
    """The run that handed it over; None where none is recorded."""
    submitted_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    state: Mapped[str] = mapped_column(String(16))
