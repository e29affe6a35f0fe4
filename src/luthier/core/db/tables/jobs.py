"""Files that were uploaded, and the fine-tuning jobs that learn from them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from luthier.core.db.tables.base import LedgerBase


class FileRow(LedgerBase):
    """One uploaded file; its bytes lie in the store's folder `files`."""

    __tablename__ = "files"
    __table_args__ = (Index(None, "key", "made_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str | None] = mapped_column(String(64))
    """The name of the key that it came with: nobody else sees it."""
    purpose: Mapped[str] = mapped_column(String(32))
    filename: Mapped[str] = mapped_column(String(255))
    bytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(String(64))
    made_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]


class JobRow(LedgerBase):
    """One fine-tuning job; its recipe lies in the store's folder `jobs`."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(
            "state IN ('validating_files', 'queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')",
            name="state",
        ),
        Index(None, "key", "made_at"),
        Index(None, "state"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str | None] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(24))
    made_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    request: Mapped[dict[str, Any]] = mapped_column("wish", JSON)
    """What was asked for."""
    settled: Mapped[dict[str, Any]] = mapped_column(JSON)
    """What `auto` came to; empty before the files were read."""
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    process: Mapped[str | None]
    """The process that runs it (`luthier.core.system.process`)."""
    deaths: Mapped[int]
    """How often its process was killed by somebody else."""
    artifact: Mapped[str | None] = mapped_column(String(64))
    """Digest of the tuned model."""
    model: Mapped[str | None] = mapped_column(String(128))
    """The name under which that is served."""
    result_file: Mapped[str | None] = mapped_column(String(64))
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
