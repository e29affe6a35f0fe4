"""What a command would mean by a word that is typed in the working directory."""

from __future__ import annotations

from luthier.recipe.locate import ArtifactRef, CommandTarget, find_artifact
from luthier.recipe.workspace import Workspace


def target(word: str | None = None, *overrides: str) -> CommandTarget:
    """A word with its overrides."""
    return CommandTarget(Workspace.open_current(), word, overrides)


def artifact_of(word: str | None = None, *overrides: str) -> ArtifactRef:
    """The artifact that a word names."""
    return find_artifact(target(word, *overrides))
