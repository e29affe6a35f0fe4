"""Runs of recipes, the artifacts that their steps made or found, and the jobs that they handed to schedulers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Double, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from luthier.core.db.tables.base import LedgerBase


class RunRow(LedgerBase):
    """One run of a recipe."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'done', 'failed', 'interrupted')", name="state"),
        Index(None, "recipe", "folder", "started_at"),
        Index(None, "state"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    recipe: Mapped[str]
    recipe_digest: Mapped[str] = mapped_column(String(64))
    folder: Mapped[str]
    recipe_file: Mapped[str | None]
    recipe_text: Mapped[str | None] = mapped_column(Text)
    overrides: Mapped[list[str] | None]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    state: Mapped[str] = mapped_column(String(16))
    exit_code: Mapped[int | None]
    error: Mapped[dict[str, Any] | None]
    process: Mapped[str]
    """Which process runs it (`luthier.core.system.process`), so that a dead one is recognised."""
    steps: Mapped[list[RunStepRow]] = relationship(order_by="RunStepRow.id", cascade="all, delete-orphan")


class RunStepRow(LedgerBase):
    """One finished step of a run."""

    __tablename__ = "run_steps"
    __table_args__ = (Index(None, "run_id", "name", unique=True), Index(None, "artifact"))

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    name: Mapped[str]
    kind: Mapped[str]
    artifact: Mapped[str] = mapped_column(String(64))
    cached: Mapped[bool]
    seconds: Mapped[float] = mapped_column(Double)


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
