"""The audit log: each entry's digest covers the entry before, so that no entry is changed, taken out or put in unseen.

An entry names people by references; `audit_subjects` says whose they are, and erasing a person changes that row alone:
the chain stays as it is. The head holds the number and the digest of the last entry. Whoever can write to the database
can compute a whole new chain: note the head elsewhere (`luthier audit verify` prints it) and compare it later.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.core.errors import CorruptArtifact, InputError, SourceLocation

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from luthier.core.db import Ledger
    from luthier.core.db.tables.people import AuditEntryRow, AuditHeadRow

_BATCH = 1000


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """One entry, with people by the names that they have now."""

    number: int
    at: datetime
    actor: str
    action: str
    project: str
    subject: str
    whom: str
    details: Mapping[str, Any]


class AuditHead(NamedTuple):
    """The end of the log."""

    number: int
    digest: str

    def __str__(self) -> str:
        return f"{self.number}:{self.digest}"


def record_audit(
    ledger: Ledger, actor: str, action: str, *, project: str = "", subject: str = "", whom: str = "", **details: Any
) -> None:
    """Add an entry: who did what, to which project, thing or person. Details must not name people."""
    with ledger.writing() as session:
        add_entry(session, actor, action, project=project, subject=subject, whom=whom, **details)


def add_entry(
    session: Session, actor: str, action: str, *, project: str = "", subject: str = "", whom: str = "", **details: Any
) -> None:
    """The same in a transaction that changes something else too: both happen, or neither does."""
    from luthier.core.db.tables.people import AuditEntryRow

    head = lock_head(session)
    row = AuditEntryRow(
        number=head.number + 1,
        at=datetime.now(UTC),
        actor=_refer(session, actor),
        action=action[:128],
        project=project[:256].replace("\0", ""),
        subject=subject[:512].replace("\0", ""),
        whom=_refer(session, whom),
        details=details,
        before=head.digest,
    )
    row.digest = _digest(row)
    session.add(row)
    head.number, head.digest = row.number, row.digest


def lock_head(session: Session) -> AuditHeadRow:
    """The end of the log, held until the transaction is over: writers take turns."""
    from sqlalchemy import select

    from luthier.core.db.tables.people import AuditHeadRow

    return session.scalars(select(AuditHeadRow).with_for_update()).one()


def _refer(session: Session, person: str) -> str:
    """The reference of a person; it is made when there is none."""
    from sqlalchemy import select

    from luthier.core.db.tables.people import AuditSubjectRow

    if not person:
        return ""
    found = session.scalar(select(AuditSubjectRow.reference).where(AuditSubjectRow.person == person))
    if found is None:
        found = secrets.token_hex(8)
        session.add(AuditSubjectRow(reference=found, person=person))
        session.flush()
    return found


def _digest(row: AuditEntryRow) -> str:
    at = row.at.astimezone(UTC).isoformat()
    content = [row.number, at, row.actor, row.action, row.project, row.subject, row.whom, row.details, row.before]
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def list_entries(ledger: Ledger, *, limit: int = 100, before: int | None = None, person: str = "") -> list[AuditEntry]:
    """The latest entries, the last first; those before a number; those that a person made or is named in."""
    from sqlalchemy import or_, select

    from luthier.core.db.tables.people import AuditEntryRow, AuditSubjectRow

    with ledger.reading() as session:
        names = {row.reference: row.person for row in session.scalars(select(AuditSubjectRow))}
        query = select(AuditEntryRow).order_by(AuditEntryRow.number.desc()).limit(limit)
        if before is not None:
            query = query.where(AuditEntryRow.number < before)
        if person:
            own = [reference for reference, name in names.items() if name == person]
            query = query.where(or_(AuditEntryRow.actor.in_(own), AuditEntryRow.whom.in_(own)))
        return [_entry(row, names) for row in session.scalars(query)]


def _entry(row: AuditEntryRow, names: Mapping[str, str]) -> AuditEntry:
    return AuditEntry(
        number=row.number,
        at=row.at,
        actor=names.get(row.actor, row.actor),
        action=row.action,
        project=row.project,
        subject=row.subject,
        whom=names.get(row.whom, row.whom),
        details=row.details,
    )


def verify_audit(ledger: Ledger, expected: str | None = None) -> AuditHead:
    """Check every entry, and that a head noted before (`NUMBER:DIGEST`) is part of the chain; returns the head.

    `CorruptArtifact` names the first entry that is not as it was written.
    """
    from sqlalchemy import select

    from luthier.core.db.tables.people import AuditHeadRow

    noted = _parse_head(expected) if expected else None
    last = AuditHead(0, "0" * 64)
    with ledger.reading() as session:
        for row in _entries(session):
            if row.number != last.number + 1:
                raise _build_broken_error(ledger, last.number + 1, "is missing")
            if row.before != last.digest or row.digest != _digest(row):
                raise _build_broken_error(ledger, row.number, "was changed")
            last = AuditHead(row.number, row.digest)
            if noted is not None and noted.number == last.number and noted.digest != last.digest:
                raise _build_broken_error(ledger, last.number, "is not the one that was noted")
        heads = [AuditHead(row.number, row.digest) for row in session.scalars(select(AuditHeadRow))]
    if heads != [last] or (noted is not None and noted.number > last.number):
        raise _build_broken_error(ledger, last.number + 1, "is missing")
    return last


def _entries(session: Session) -> Iterator[AuditEntryRow]:
    from sqlalchemy import select

    from luthier.core.db.tables.people import AuditEntryRow

    query, after = select(AuditEntryRow).order_by(AuditEntryRow.number).limit(_BATCH), -1
    while rows := session.scalars(query.where(AuditEntryRow.number > after)).all():
        yield from rows
        after = rows[-1].number
        session.expunge_all()


def _parse_head(text: str) -> AuditHead:
    number, _, digest = text.partition(":")
    if not number.isdigit() or len(digest) != 64:
        hint = "give what `luthier audit verify` printed: NUMBER:DIGEST"
        raise InputError("is no head of an audit log", where=SourceLocation(field="--expect"), hint=hint)
    return AuditHead(int(number), digest)


def _build_broken_error(ledger: Ledger, number: int, what: str) -> CorruptArtifact:
    hint = "compare with a copy of the database from before"
    return CorruptArtifact(
        f"entry {number} of the audit log {what}", where=SourceLocation(file=ledger.location), hint=hint
    )
