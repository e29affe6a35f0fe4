"""Invitation links: random, used once, over after some days; each carries a role and the projects it holds in."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

from luthier.core.errors import InputError, SourceLocation
from luthier.people.accounts import check_name, check_role, find_row, insert_person, roles_of
from luthier.people.audit import add_entry
from luthier.people.passwords import check_password, hash_password
from luthier.people.rights import WORKSPACE, Person, Role

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from luthier.core.db import Ledger
    from luthier.core.db.tables.people import InvitationRow

DAYS = 7


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """An invitation that was not used yet."""

    id: str
    """The beginning of its digest: enough to withdraw it, and not to use it."""
    role: Role
    projects: tuple[str, ...]
    made_by: str
    expires_at: datetime

    @property
    def roles(self) -> Mapping[str, Role]:
        """The role in each project."""
        return dict.fromkeys(self.projects, self.role)


def create_invitation(
    ledger: Ledger, role: str, projects: Sequence[str] = (WORKSPACE,), *, by: str, days: float = DAYS
) -> str:
    """The token of a new invitation: this is the only time that it is seen."""
    from luthier.core.db.tables.people import InvitationRow
    from luthier.people.accounts import exist_accounts

    token, now = secrets.token_urlsafe(32), datetime.now(UTC)
    row = InvitationRow(
        digest=_digest(token),
        role=check_role(role),
        projects=list(dict.fromkeys(projects)) or [WORKSPACE],
        made_by=by,
        made_at=now,
        expires_at=now + timedelta(days=days),
    )
    with ledger.writing() as session:
        if not exist_accounts(session):
            hint = "make the owner's first: luthier people add NAME --owner"
            raise InputError("the workspace has no accounts yet", hint=hint)
        session.add(row)
        add_entry(session, by, "invitation.add", subject=row.digest[:16], role=role, projects=list(row.projects))
    return token


def list_invitations(ledger: Ledger) -> list[Invitation]:
    """Those that may still be used."""
    from sqlalchemy import select

    from luthier.core.db.tables.people import InvitationRow

    with ledger.reading() as session:
        open_now = InvitationRow.used_at.is_(None), InvitationRow.expires_at > datetime.now(UTC)
        rows = session.scalars(select(InvitationRow).where(*open_now).order_by(InvitationRow.made_at))
        return [_invitation(row) for row in rows]


def find_invitation(ledger: Ledger, token: str) -> Invitation:
    """The invitation of a token; `InputError` where it cannot be used (any more)."""
    with ledger.reading() as session:
        return _invitation(_get_row(session, token))


def withdraw_invitation(ledger: Ledger, id: str, *, by: str) -> None:
    """Let a link open nothing any more."""
    from sqlalchemy import delete

    from luthier.core.db.tables.people import InvitationRow

    known = {invitation.id for invitation in list_invitations(ledger)}
    if id not in known:
        raise InputError("there is no such invitation", hint="it was used or withdrawn already")
    with ledger.writing() as session:
        session.execute(delete(InvitationRow).where(InvitationRow.digest.startswith(id)))
        add_entry(session, by, "invitation.withdraw", subject=id)


def accept_invitation(
    ledger: Ledger,
    token: str,
    id: str,
    *,
    name: str = "",
    password: str | None = None,
    email: str | None = None,
    identity: tuple[str, str] | None = None,
) -> Person:
    """Make the account that an invitation is for, with a password or with who one is at an OpenID provider (issuer and
    subject)."""
    from luthier.core.db.tables.people import IdentityRow

    find_invitation(ledger, token)
    id = check_name(id)
    if password is not None:
        check_password(password, id, name, email or "")
    digest = None if password is None else hash_password(password)
    with ledger.writing() as session:
        invitation = _claim(session, token, id)
        person = insert_person(session, id, roles=invitation.roles, by=id, name=name, email=email, digest=digest)
        if identity is not None:
            session.add(IdentityRow(issuer=identity[0], subject=identity[1], person=id))
        return person


def join_projects(ledger: Ledger, token: str, id: str) -> Person:
    """Give somebody who has an account the role of an invitation too; a role that they have in a project stays."""
    from luthier.core.db.tables.people import RoleRow

    with ledger.writing() as session:
        row = find_row(session, id)
        invitation = _claim(session, token, row.id)
        before = roles_of(session, row.id)
        for project in invitation.projects:
            if project not in before:
                session.add(RoleRow(person=row.id, project=project, role=invitation.role))
                add_entry(session, row.id, "role.set", project=project, whom=row.id, role=invitation.role)
        session.flush()
        return Person(row.id, row.name, roles_of(session, row.id))


def _claim(session: Session, token: str, id: str) -> Invitation:
    """Take an invitation, of several at once only one."""
    from sqlalchemy import update

    from luthier.core.db.tables.people import InvitationRow

    invitation = _invitation(_get_row(session, token))
    unused = InvitationRow.digest == _digest(token), InvitationRow.used_at.is_(None)
    use = {InvitationRow.used_at: datetime.now(UTC), InvitationRow.used_by: id}
    result = session.execute(update(InvitationRow).where(*unused).values(use))
    if result.rowcount != 1:  # type: ignore[attr-defined]  # an UPDATE has one
        raise _build_expired_error()
    add_entry(session, id, "invitation.use", subject=invitation.id)
    return invitation


def _get_row(session: Session, token: str) -> InvitationRow:
    from luthier.core.db.tables.people import InvitationRow

    row = session.get(InvitationRow, _digest(token))
    if row is None or row.used_at is not None or row.expires_at <= datetime.now(UTC):
        raise _build_expired_error()
    return row


def _build_expired_error() -> InputError:
    hint = "ask whoever invited you for a new one"
    return InputError("this invitation was used already, or is over", where=SourceLocation(field="link"), hint=hint)


def _invitation(row: InvitationRow) -> Invitation:
    return Invitation(
        id=row.digest[:16],
        role=cast("Role", row.role),
        projects=tuple(row.projects),
        made_by=row.made_by,
        expires_at=row.expires_at,
    )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
