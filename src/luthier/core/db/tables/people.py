"""Accounts, roles, invitations, attempts to log in, and the chained audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from luthier.core.db.tables.base import LedgerBase

_ROLES = "role IN ('owner', 'editor', 'reviewer', 'labeller', 'viewer')"


class PersonRow(LedgerBase):
    """One account. That of a removed person stays, so that nobody else gets the name."""

    __tablename__ = "people"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    """The name that the person logs in with, and that answers are recorded under."""
    name: Mapped[str] = mapped_column(String(128))
    email: Mapped[str | None] = mapped_column(String(256))
    password: Mapped[str | None] = mapped_column(String(256))
    """As argon2 encodes it; None for a person who logs in elsewhere."""
    made_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]


class IdentityRow(LedgerBase):
    """Who a person is at an OpenID provider."""

    __tablename__ = "identities"

    issuer: Mapped[str] = mapped_column(String(256), primary_key=True)
    subject: Mapped[str] = mapped_column(String(256), primary_key=True)
    person: Mapped[str] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"))


class RoleRow(LedgerBase):
    """What a person may do in a project."""

    __tablename__ = "roles"
    __table_args__ = (CheckConstraint(_ROLES, name="role"),)

    person: Mapped[str] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), primary_key=True)
    project: Mapped[str] = mapped_column(String(256), primary_key=True)
    """The id of a project; `*` for all of the workspace; `label/ID` for one set of items to label."""
    role: Mapped[str] = mapped_column(String(16))


class InvitationRow(LedgerBase):
    """A link that makes one account; only the digest of its token is kept."""

    __tablename__ = "invitations"
    __table_args__ = (CheckConstraint(_ROLES, name="role"),)

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    projects: Mapped[list[str]]
    made_by: Mapped[str] = mapped_column(String(128))
    made_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    used_by: Mapped[str | None] = mapped_column(String(64))


class LoginAttemptRow(LedgerBase):
    """One attempt to log in that failed, or is under way."""

    __tablename__ = "login_attempts"
    __table_args__ = (Index(None, "account", "at"), Index(None, "address", "at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[str] = mapped_column(String(64))
    """Digest of the name that was given: somebody may have typed the password there."""
    address: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime]


class AuditSubjectRow(LedgerBase):
    """Who a reference in the audit log stands for; erasing a person changes this row alone."""

    __tablename__ = "audit_subjects"

    reference: Mapped[str] = mapped_column(String(16), primary_key=True)
    person: Mapped[str] = mapped_column(String(128), unique=True)


class AuditEntryRow(LedgerBase):
    """One entry of the audit log; its digest covers the entry before."""

    __tablename__ = "audit_entries"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(16))
    """A reference of `audit_subjects`, as `whom` is; empty where nobody is known."""
    action: Mapped[str] = mapped_column(String(128))
    project: Mapped[str] = mapped_column(String(256))
    subject: Mapped[str] = mapped_column(String(512))
    whom: Mapped[str] = mapped_column(String(16))
    details: Mapped[dict[str, Any]]
    before: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))


class AuditHeadRow(LedgerBase):
    """The last entry of the audit log: one row, which writers lock."""

    __tablename__ = "audit_head"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int]
    digest: Mapped[str] = mapped_column(String(64))
