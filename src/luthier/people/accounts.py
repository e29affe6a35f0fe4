"""Accounts and roles: the first is an owner, the last owner stays, and a removed name is never given again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from luthier.core.errors import InputError, SourceLocation, UnknownName, did_you_mean
from luthier.people.audit import add_entry
from luthier.people.passwords import check_password, hash_password
from luthier.people.rights import ROLES, WORKSPACE, Person, Role

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from luthier.core.db import Ledger
    from luthier.core.db.tables.people import PersonRow

_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Account:
    """A person as lists show one."""

    id: str
    name: str
    email: str | None
    roles: Mapping[str, Role]
    has_password: bool
    made_at: datetime
    removed_at: datetime | None

    @property
    def person(self) -> Person:
        """The same as whoever makes a request."""
        return Person(self.id, self.name, self.roles)


def has_accounts(ledger: Ledger) -> bool:
    """Whether the workspace has accounts: from the first one on, everybody logs in."""
    with ledger.reading() as session:
        return exist_accounts(session)


def exist_accounts(session: Session) -> bool:
    """The same in a transaction."""
    from sqlalchemy import select

    from luthier.core.db.tables.people import PersonRow

    return session.scalar(select(PersonRow.id).limit(1)) is not None


def add_person(
    ledger: Ledger,
    id: str,
    *,
    roles: Mapping[str, Role],
    by: str,
    name: str = "",
    email: str | None = None,
    password: str | None = None,
) -> Person:
    """Make an account; `InputError` where the name is taken, or the first account is no owner's."""
    id = check_name(id)
    if password is not None:
        check_password(password, id, name, email or "")
    digest = None if password is None else hash_password(password)
    with ledger.writing() as session:
        return insert_person(session, id, roles=roles, by=by, name=name, email=email, digest=digest)


def insert_person(
    session: Session,
    id: str,
    *,
    roles: Mapping[str, Role],
    by: str,
    name: str = "",
    email: str | None = None,
    digest: str | None = None,
) -> Person:
    """The same in a transaction, with a password's digest."""
    from luthier.core.db.tables.people import PersonRow, RoleRow

    where = SourceLocation(field="NAME")
    if session.get(PersonRow, id) is not None:
        raise InputError(f"there is, or was, somebody named {id!r}", where=where, hint="take another name")
    if not exist_accounts(session) and roles.get(WORKSPACE) != "owner":
        hint = f"luthier people add {id} --owner"
        raise InputError("the first account is that of an owner of the workspace", where=where, hint=hint)
    person_row = PersonRow(
        id=id, name=name.strip()[:128] or id, email=email, password=digest, made_at=datetime.now(UTC)
    )
    session.add(person_row)
    session.flush()
    session.add_all(RoleRow(person=id, project=project, role=check_role(role)) for project, role in roles.items())
    add_entry(session, by, "person.add", whom=id, roles=dict(roles))
    return Person(id, person_row.name, dict(roles))


def check_name(id: str) -> str:
    """The name of an account as it is kept; `InputError` for what is none."""
    found = id.strip().lower()
    if not _NAME.fullmatch(found):
        what = f"expected a name of small letters, digits and ._@- (at most 64), got {id[:80]!r}"
        raise InputError(what, where=SourceLocation(field="NAME"), hint="for example anna.schmidt")
    return found


def check_role(role: str) -> Role:
    """A role; `InputError` for what is none."""
    if role not in ROLES:
        hint = did_you_mean(role, ROLES) or f"roles are {', '.join(ROLES)}"
        raise InputError(f"there is no role {role[:80]!r}", where=SourceLocation(field="role"), hint=hint)
    return role  # a Role by now


def list_accounts(ledger: Ledger, *, removed: bool = False) -> list[Account]:
    """All accounts by name; those that were removed only where they are asked for."""
    from sqlalchemy import select

    from luthier.core.db.tables.people import PersonRow

    with ledger.reading() as session:
        rows = session.scalars(select(PersonRow).order_by(PersonRow.id)).all()
        return [_account(session, row) for row in rows if removed or row.removed_at is None]


def find_account(ledger: Ledger, id: str) -> Account:
    """An account by its name; `UnknownName` where there is none."""
    with ledger.reading() as session:
        return _account(session, find_row(session, id))


def find_row(session: Session, id: str) -> PersonRow:
    """The row of an account that was not removed."""
    from sqlalchemy import select

    from luthier.core.db.tables.people import PersonRow

    row = session.get(PersonRow, id.strip().lower()[:64])
    if row is None or row.removed_at is not None:
        known = session.scalars(select(PersonRow.id).where(PersonRow.removed_at.is_(None))).all()
        what = f"there is nobody named {id[:80]!r}"
        raise UnknownName(what, where=SourceLocation(field="NAME"), hint=did_you_mean(id, known))
    return row


def _account(session: Session, row: PersonRow) -> Account:
    return Account(
        id=row.id,
        name=row.name,
        email=row.email,
        roles=roles_of(session, row.id),
        has_password=row.password is not None,
        made_at=row.made_at,
        removed_at=row.removed_at,
    )


def roles_of(session: Session, id: str) -> dict[str, Role]:
    """The role of a person in each project."""
    from sqlalchemy import select

    from luthier.core.db.tables.people import RoleRow

    rows = session.scalars(select(RoleRow).where(RoleRow.person == id).order_by(RoleRow.project))
    return {row.project: cast("Role", row.role) for row in rows}


def set_role(ledger: Ledger, id: str, role: str | None, projects: Sequence[str], *, by: str) -> None:
    """Give a person a role in projects; None takes it away. The last owner of the workspace stays one."""
    from luthier.core.db.tables.people import RoleRow

    with ledger.writing() as session:
        person = find_row(session, id).id
        for project in projects:
            if project == WORKSPACE and role != "owner":
                _keep_owner(session, person)
            row = session.get(RoleRow, (person, project))
            if role is None:
                if row is not None:
                    session.delete(row)
            elif row is None:
                session.add(RoleRow(person=person, project=project, role=check_role(role)))
            else:
                row.role = check_role(role)
            add_entry(session, by, "role.set", project=project, whom=person, role=role)


def _keep_owner(session: Session, person: str) -> None:
    from sqlalchemy import select

    from luthier.core.db.tables.people import PersonRow, RoleRow

    query = select(RoleRow.person).join(PersonRow, PersonRow.id == RoleRow.person)
    owners = session.scalars(
        query.where(RoleRow.project == WORKSPACE, RoleRow.role == "owner", PersonRow.removed_at.is_(None))
    ).all()
    if list(owners) == [person]:
        hint = "make somebody else an owner first: luthier people role NAME owner"
        raise InputError(f"{person} is the last owner", where=SourceLocation(field="NAME"), hint=hint)


def set_password(ledger: Ledger, id: str, password: str, *, by: str, keep_session: str = "") -> None:
    """Give a person a new password; all sessions end but the one whose digest is given."""
    from sqlalchemy import delete

    from luthier.core.db.tables.studio import BrowserSessionRow

    account = find_account(ledger, id)
    check_password(password, account.id, account.name, account.email or "")
    digest = hash_password(password)
    with ledger.writing() as session:
        row = find_row(session, id)
        row.password = digest
        column_elements = BrowserSessionRow.person == row.id, BrowserSessionRow.digest != keep_session
        session.execute(delete(BrowserSessionRow).where(*column_elements))
        add_entry(session, by, "password.set", whom=row.id)


def remove_person(ledger: Ledger, id: str, *, by: str) -> None:
    """Close an account: sessions end, roles and keys go; what the person answered stays."""
    from sqlalchemy import delete, update

    from luthier.core.db.tables.people import IdentityRow, RoleRow
    from luthier.core.db.tables.serving import KeyRow
    from luthier.core.db.tables.studio import BrowserSessionRow

    with ledger.writing() as session:
        row = find_row(session, id)
        _keep_owner(session, row.id)
        now = datetime.now(UTC)
        session.execute(delete(BrowserSessionRow).where(BrowserSessionRow.person == row.id))
        session.execute(delete(RoleRow).where(RoleRow.person == row.id))
        session.execute(delete(IdentityRow).where(IdentityRow.person == row.id))
        session.execute(
            update(KeyRow).where(KeyRow.owner == row.id, KeyRow.revoked_at.is_(None)).values(revoked_at=now)
        )
        row.removed_at, row.password = now, None
        add_entry(session, by, "person.remove", whom=row.id)
