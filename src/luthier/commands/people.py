"""People of a workspace, their data, and its audit log, as commands and the studio's pages use them."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.db import Ledger
from luthier.core.errors import InputError, SourceLocation, UnknownName
from luthier.core.files import write_atomically
from luthier.core.system.process import get_user_name
from luthier.people import accounts, audit, invitations
from luthier.people.accounts import Account
from luthier.people.rights import WORKSPACE
from luthier.recipe.workspace import Workspace

if TYPE_CHECKING:
    from sqlalchemy import Column, Table

PERSON_COLUMNS = frozenset(
    {"person", "annotator", "judge", "by", "owner", "author", "reviewer", "made_by", "created_by", "decided_by",
     "opinion_by",
     "used_by", "added_by", "asked_by", "closed_by", "changed_by", "requested_by", "resolved_by", "started_by"}
)  # fmt: skip
"""Columns of the ledger that say who did something: a table that names a person otherwise is not exported or erased."""
_SECRET_COLUMNS = frozenset({"digest", "password"})
_AUDIT_TABLES = frozenset({"audit_subjects"})


def open_people_ledger(workspace: Workspace) -> Ledger:
    """Open the ledger with the accounts: of this folder, or of its workspace."""
    for entry in (workspace, *workspace.list_enclosing()):
        if entry.has_ledger():
            ledger = entry.open_ledger()
            if accounts.has_accounts(ledger):
                return ledger
            ledger.close()
    return workspace.open_ledger()


def record_command(workspace: Workspace, action: str, **what: Any) -> None:
    """Write into the audit log what the user of this machine did by a command."""
    with open_people_ledger(workspace) as ledger:
        audit.record_audit(ledger, get_user_name(), action, **what)


def add_account(
    workspace: Workspace, name: str, role: str, projects: Sequence[str], *, shown: str, email: str | None, password: str
) -> None:
    """Make an account."""
    roles = dict.fromkeys(projects or [WORKSPACE], accounts.check_role(role))
    with open_people_ledger(workspace) as ledger:
        accounts.add_person(
            ledger, name, roles=roles, by=get_user_name(), name=shown, email=email, password=password
        )  # fmt: skip


def list_people(workspace: Workspace) -> list[Account]:
    """All accounts."""
    with open_people_ledger(workspace) as ledger:
        return accounts.list_accounts(ledger)


def invite_person(workspace: Workspace, role: str, projects: Sequence[str], days: float) -> str:
    """The path of a new invitation's page."""
    with open_people_ledger(workspace) as ledger:
        token = invitations.create_invitation(ledger, role, projects or [WORKSPACE], by=get_user_name(), days=days)
    return f"/invite/{token}"


def change_role(workspace: Workspace, name: str, role: str | None, projects: Sequence[str]) -> None:
    """Give a person a role, or take it away."""
    with open_people_ledger(workspace) as ledger:
        accounts.set_role(ledger, name, role, projects or [WORKSPACE], by=get_user_name())


def change_password(workspace: Workspace, name: str, password: str) -> None:
    """Give a person another password; their sessions end."""
    with open_people_ledger(workspace) as ledger:
        accounts.set_password(ledger, name, password, by=get_user_name())


def remove_account(workspace: Workspace, name: str, *, by: str = "") -> None:
    """Close an account, and revoke the person's keys in this workspace and in its projects."""
    with open_people_ledger(workspace) as ledger:
        id = accounts.find_account(ledger, name).id
        accounts.remove_person(ledger, id, by=by or get_user_name())
    for nearby in _ledgers(workspace):
        _revoke_keys(nearby, id)


def _revoke_keys(ledger: Ledger, owner: str) -> None:
    from luthier.traces.api_keys import list_keys, revoke_key

    for key in list_keys(ledger):
        if key.owner == owner and key.revoked_at is None:
            revoke_key(ledger, key.name)


def _ledgers(workspace: Workspace) -> Iterator[Ledger]:
    """The ledger with the accounts, and those of the projects nearby."""
    with open_people_ledger(workspace) as own:
        yield own
        for url in sorted({entry.ledger_url for entry in workspace.list_nearby() if entry.has_ledger()}):
            with Ledger(url) as ledger:
                if ledger.location != own.location:
                    yield ledger


def _traffic_folders(workspace: Workspace) -> list[Path]:
    from luthier.traces.retention import has_traffic, traffic_folder

    folders = dict.fromkeys(traffic_folder(entry.folder) for entry in (workspace, *workspace.list_nearby()))
    return [folder for folder in folders if has_traffic(folder)]


def export_person(workspace: Workspace, name: str, to: Path) -> dict[str, int]:
    """Write all that is recorded under a person's id into a JSON file; returns how much of what."""
    from luthier.traces.store import read_feedback

    content: dict[str, list[Any]] = {}
    for ledger in _ledgers(workspace):
        for table, column in _person_columns():
            content.setdefault(table.name, []).extend(_rows(ledger, table, column, name))
        content.setdefault("audit", []).extend(
            vars(entry) for entry in audit.list_entries(ledger, limit=1_000_000, person=name)
        )
    feedbacks = [
        feedback for folder in _traffic_folders(workspace) for feedback in read_feedback(folder) if feedback.by == name
    ]
    content["feedback"] = [feedback.model_dump(mode="json") for feedback in feedbacks]
    found = {what: rows for what, rows in content.items() if rows}
    if not found:
        raise UnknownName(f"nothing is recorded under {name!r}", where=SourceLocation(field="NAME"))
    write_atomically(to, json.dumps({"person": name, **found}, indent=1, default=str, ensure_ascii=False).encode())
    record_command(workspace, "person.export", whom=name)
    return {what: len(rows) for what, rows in found.items()}


def _person_columns() -> list[tuple[Table, Column[Any]]]:
    """Every column of the ledger that holds a person's id."""
    from luthier.core.db.tables import load_table_metadata

    found = []
    for table in load_table_metadata().sorted_tables:
        names = {"id"} if table.name == "people" else PERSON_COLUMNS
        found += [(table, column) for column in table.columns if column.name in names]
    return found


def _rows(ledger: Ledger, table: Table, column: Column[Any], name: str) -> list[dict[str, Any]]:
    from sqlalchemy import select

    if table.name in _AUDIT_TABLES:
        return []
    shown = [entry for entry in table.columns if entry.name not in _SECRET_COLUMNS]
    with ledger.reading() as session:
        return [dict(row) for row in session.execute(select(*shown).where(column == name)).mappings()]


def erase_person(workspace: Workspace, name: str) -> tuple[str, int]:
    """Replace a person's id by a random pseudonym wherever it is recorded, and close the account; what they answered
    stays, named by nobody. Returns the pseudonym, and how many rows had the id.

    The audit log's chain stays as it is. Artifacts that were made before keep the id: they never change.
    """
    with open_people_ledger(workspace) as ledger:
        if name in {account.id for account in accounts.list_accounts(ledger)}:
            remove_account(workspace, name)
    pseudonym = f"erased-{secrets.token_hex(6)}"
    changed = sum(_rename_feedback(folder, name, pseudonym) for folder in _traffic_folders(workspace))
    for ledger in _ledgers(workspace):
        changed += _rename_person(ledger, name, pseudonym)
    if not changed:
        raise UnknownName(f"nothing is recorded under {name!r}", where=SourceLocation(field="NAME"))
    record_command(workspace, "person.erase", whom=pseudonym)
    return pseudonym, changed


def _rename_feedback(folder: Path, name: str, pseudonym: str) -> int:
    from luthier.traces.erasure import rename_feedback_author

    return rename_feedback_author(folder, name, pseudonym)


def _rename_person(ledger: Ledger, name: str, pseudonym: str) -> int:
    """Rename a person in one ledger, in one transaction."""
    from sqlalchemy import delete, update

    from luthier.core.db.tables.people import LoginAttemptRow, PersonRow

    account = hashlib.sha256(name.encode()).hexdigest()
    with ledger.writing() as session:
        counts = [
            session.execute(update(table).where(column == name).values({column.name: pseudonym})).rowcount  # type: ignore[attr-defined]
            for table, column in _person_columns()
        ]
        session.execute(
            update(PersonRow).where(PersonRow.id == pseudonym).values(name=pseudonym, email=None, password=None)
        )
        session.execute(delete(LoginAttemptRow).where(LoginAttemptRow.account == account))
    return sum(counts)


def list_audit(workspace: Workspace, count: int, person: str) -> list[audit.AuditEntry]:
    """The latest entries of the audit log, the last first."""
    with open_people_ledger(workspace) as ledger:
        return audit.list_entries(ledger, limit=count, person=person)


def verify_audit(workspace: Workspace, expected: str | None) -> str:
    """Check the audit log, and return its head to be noted elsewhere."""
    with open_people_ledger(workspace) as ledger:
        return str(audit.verify_audit(ledger, expected))


def check_owner_of_key(workspace: Workspace, person: str) -> str:
    """The id of a person who gets a key."""
    with open_people_ledger(workspace) as ledger:
        if not accounts.has_accounts(ledger):
            hint = "make one: luthier people add NAME --owner"
            raise InputError("the workspace has no accounts", where=SourceLocation(field="--person"), hint=hint)
        return accounts.find_account(ledger, person).id
