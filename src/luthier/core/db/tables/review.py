"""Queues of requests that are reviewed, and which verdicts stand in the traffic already."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from luthier.core.db.tables.base import LedgerBase


class ReviewQueueRow(LedgerBase):
    """How one review queue is filled; its items and answers are those of its annotation project."""

    __tablename__ = "review_queues"

    project_id: Mapped[str] = mapped_column(ForeignKey("annotation_projects.id"), primary_key=True)
    settings: Mapped[dict[str, Any]]
    filled_at: Mapped[datetime | None]


_ITEM = BigInteger().with_variant(Integer, "sqlite")


class ReviewDecisionRow(LedgerBase):
    """Whose opinion of a request counts, where several people gave one."""

    __tablename__ = "review_decisions"
    __table_args__ = (Index(None, "project_id"),)

    item_id: Mapped[int] = mapped_column(
        _ITEM, ForeignKey("annotation_items.id"), primary_key=True, autoincrement=False
    )
    project_id: Mapped[str] = mapped_column(String(32))
    opinion_by: Mapped[str] = mapped_column(String(128))
    decided_by: Mapped[str] = mapped_column(String(128))
    decided_at: Mapped[datetime]


class ReviewExportRow(LedgerBase):
    """A verdict that was written into the traffic as feedback; the digest tells whether it is that of today."""

    __tablename__ = "review_exports"
    __table_args__ = (Index(None, "project_id"),)

    item_id: Mapped[int] = mapped_column(
        _ITEM, ForeignKey("annotation_items.id"), primary_key=True, autoincrement=False
    )
    project_id: Mapped[str] = mapped_column(String(32))
    digest: Mapped[str] = mapped_column(String(64))
    exported_at: Mapped[datetime]
