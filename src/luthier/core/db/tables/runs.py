"""Runs of recipes and the artifacts that their steps made or found."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Double, ForeignKey, Index, String, Text
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
