"""API keys of `luthier serve`, in the ledger of the folder that is meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from luthier.commands.people import check_owner_of_key, record_command
from luthier.recipe.workspace import Workspace
from luthier.traces.api_keys import Scope, add_key, list_keys, revoke_key


def create_api_key(
    workspace: Workspace, name: str, scopes: Sequence[str], requests_per_minute: int | None, person: str | None = None
) -> str:
    """Make a key; unknown scopes are refused there. That of a person is revoked when the account is closed."""
    owner = None if person is None else check_owner_of_key(workspace, person)
    meant = workspace.find_meant()
    with meant.open_ledger() as ledger:
        key = add_key(ledger, name, cast("Sequence[Scope]", scopes), requests_per_minute, owner)
    record_command(meant, "key.add", subject=name, whom=owner or "", scopes=list(scopes))
    return key


def list_api_keys(workspace: Workspace) -> list[dict[str, Any]]:
    """All keys."""
    with workspace.find_meant().open_ledger() as ledger:
        return [vars(key) for key in list_keys(ledger)]


def revoke_api_key(workspace: Workspace, name: str) -> None:
    """Revoke a key."""
    meant = workspace.find_meant()
    with meant.open_ledger() as ledger:
        revoke_key(ledger, name)
    record_command(meant, "key.revoke", subject=name)
