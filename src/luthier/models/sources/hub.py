"""A model of the Hugging Face hub: from the local hub cache, or over the network when the recipe allows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from luthier.core.errors import ModelError, SourceLocation
from luthier.core.hashing import digest_of
from luthier.core.system.net import HubRepository, Progress
from luthier.models.describe import read_licence
from luthier.models.source import (
    KEPT,
    SENTENCE,
    ModelProvenance,
    ModelSource,
    Say,
    check_model_folder,
    copy_model_folder,
    is_hub_id,
    list_model_files,
)

_PATTERNS = [*KEPT, "*.safetensors", "*.safetensors.index.json", "additional_chat_templates/*.jinja"]
_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
_ENCODER = [*KEPT, *SENTENCE, *_WEIGHTS]
_NOT_LOADED = ["*/*.safetensors", "consolidated*.safetensors", "*.bin", "*.pt", "*.pth"]


class HubModelSource(ModelSource):
    """A model by its id on the Hugging Face hub (`HF_ENDPOINT`, `HF_HUB_CACHE` and `HF_TOKEN` apply)."""

    kind: Literal["hub"] = "hub"
    id: str
    """Owner and name, as in `HuggingFaceTB/SmolLM2-135M-Instruct`."""
    revision: str = "main"
    """A branch, tag or commit; only a commit names the same bytes forever."""
    online: bool = False
    """Whether the hub may be contacted. Otherwise the model must be in the local hub cache."""

    @field_validator("id")
    @classmethod
    def _two_names(cls, value: str) -> str:
        if not is_hub_id(value):
            raise ValueError("expected OWNER/NAME, as on the hub")
        return value

    def fetch(self, folder: Path, recipe_dir: Path, say: Say) -> ModelProvenance:
        """Copy the model from the hub's cache, downloaded first when `online`."""
        snapshot = self._published().snapshot(_PATTERNS, _NOT_LOADED)
        copy_model_folder(snapshot, folder, say)
        commit = snapshot.name
        if self.revision != commit:
            say(f"revision {self.revision!r} of {self.id} is commit {commit}; write that to get the same bytes forever")
        return ModelProvenance(self.id, read_licence(snapshot), f"hub {self.id} at {commit}")

    def in_place(self, recipe_dir: Path, say: Say) -> Path:
        """Return the folder in the hub's cache, downloaded first when `online`."""
        model_dir = self._published().snapshot(_ENCODER)
        check_model_folder(model_dir)
        return model_dir

    def bring(self, progress: Progress, *, encoder: bool = False) -> Path:
        """Download the model into the hub's cache, whether or not `online`; existing files are not downloaded again."""
        published = replace(self._published(), online=True)
        if encoder:
            return published.snapshot(_ENCODER, (), progress)
        return published.snapshot(_PATTERNS, _NOT_LOADED, progress)

    def here(self, recipe_dir: Path) -> Path | None:
        """Return the folder in the hub's cache, if the model is complete there; the hub is not contacted."""
        try:
            model_dir = replace(self._published(), online=False).snapshot(_PATTERNS)
            check_model_folder(model_dir)
        except ModelError:
            return None
        return model_dir

    def size(self, recipe_dir: Path) -> int | None:
        """Return the bytes of the model's files, when they are in the hub's cache."""
        model_dir = self.here(recipe_dir)
        return sum(path.stat().st_size for path in list_model_files(model_dir)) if model_dir is not None else None

    def identity(self, recipe_dir: Path) -> str:
        """Return a digest of the id and the revision."""
        return digest_of([self.id, self.revision])

    def _published(self) -> HubRepository:
        return HubRepository(
            id=self.id,
            revision=self.revision,
            online=self.online,
            holds="model",
            noun="model",
            where=SourceLocation(field="model"),
            error=ModelError,
            example=f"run `luthier models get {self.id}`, or write `model: {{kind: hub, id: {self.id}, online: true}}`",
        )
