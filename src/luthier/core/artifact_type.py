"""What an artifact can be: the role `artifact type`."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from luthier.core.artifact import Artifact
from luthier.core.component import Component


class ArtifactType(Component):
    """A type of artifact, by which a step says what it makes (`Step.makes`) and what it reads (`Reads`)."""

    role: ClassVar[str] = "artifact type"
    home: ClassVar[str] = "luthier.recipe.artifact_types"

    @abstractmethod
    def describe(self, artifact: Artifact) -> dict[str, Any]:
        """What `luthier show` prints of one, by name."""
