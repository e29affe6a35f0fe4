"""Keys of applications, in the ledger of the store here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from luthier.core.ledger import Ledger
from luthier.flow.here import folder_here, ledger_of
from luthier.traffic.keys import Scope, add_key, list_keys, revoke_key


def add(name: str, scopes: Sequence[str], requests_per_minute: int | None) -> str:
    """Make a key; unknown scopes are refused there."""
    with _ledger() as ledger:
        return add_key(ledger, name, cast("Sequence[Scope]", scopes), requests_per_minute)


def listed() -> list[dict[str, Any]]:
    """All keys."""
    with _ledger() as ledger:
        return [vars(key) for key in list_keys(ledger)]


def revoke(name: str) -> None:
    """Let a key open nothing any more."""
    with _ledger() as ledger:
        revoke_key(ledger, name)


def _ledger() -> Ledger:
    return ledger_of(folder_here())
