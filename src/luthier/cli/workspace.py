"""The workspace of a command: the folder in which it was typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luthier.recipe.workspace import Workspace


def current_workspace() -> Workspace:
    """The working directory, with the store and database that the environment names."""
    from luthier.recipe.workspace import Workspace

    return Workspace.open_current()
