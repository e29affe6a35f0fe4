"""API keys of `luthier serve`, in the ledger of the folder that is meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from luthier.recipe.workspace import Workspace
from luthier.traces.api_keys import Scope, add_key, list_keys, revoke_key


def create_api_key(workspace: Workspace, name: str, scopes: Sequence[str], requests_per_minute: int | None) -> str:
    """Make a key; unknown scopes are refused there."""
    with workspace.find_meant().open_ledger() as ledger:
        return add_key(ledger, name, cast("Sequence[Scope]", scopes), requests_per_minute)


def list_api_keys(workspace: Workspace) -> list[dict[str, Any]]:
    """All keys."""
    with workspace.find_meant().open_ledger() as ledger:
        return [vars(key) for key in list_keys(ledger)]


def revoke_api_key(workspace: Workspace, name: str) -> None:
    """Let a key open nothing any more."""
    with workspace.find_meant().open_ledger() as ledger:
        revoke_key(ledger, name)
