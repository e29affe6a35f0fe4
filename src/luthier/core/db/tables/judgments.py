"""What people said about answers that were put before them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Double, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from luthier.core.db.tables.base import LedgerBase


class JudgmentRow(LedgerBase):
    """One judgment; of several by one judge on one item, the last counts."""

    __tablename__ = "judgments"
    __table_args__ = (Index(None, "assignment", "judge"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    assignment: Mapped[str] = mapped_column(String(64))
    """Digest of the artifact that says what is asked."""
    item: Mapped[str] = mapped_column(String(32))
    judge: Mapped[str] = mapped_column(String(64))
    value: Mapped[Any] = mapped_column(JSON(none_as_null=False))
    """As the form keeps it; JSON's null where the judge passed."""
    comment: Mapped[str | None]
    seconds: Mapped[float | None] = mapped_column(Double)
    at: Mapped[datetime]
