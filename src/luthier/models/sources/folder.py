"""A Hugging Face folder on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from luthier.core.digest import files_digest
from luthier.core.paths import PathText, locate
from luthier.models.describe import read_licence
from luthier.models.source import ModelSource, Provenance, Say, adopt, check_folder, model_files


class Folder(ModelSource):
    """A folder with `config.json`, safetensors weights and a tokenizer."""

    kind: Literal["folder"] = "folder"
    path: PathText
    """The folder; a relative path starts at the recipe's folder, and `$NAME` is taken from the environment."""

    def fetch(self, folder: Path, base: Path, say: Say) -> Provenance:
        """Copy the folder's model files."""
        place = self._place(base)
        adopt(place, folder, say)
        return Provenance(place.resolve().name, read_licence(place), f"folder {place.resolve().name}")

    def in_place(self, base: Path, say: Say) -> Path:
        """The folder itself, once it is known to be whole and safe."""
        check_folder(self._place(base))
        return self._place(base)

    def identity(self, base: Path) -> str:
        """A digest of the model files' names and bytes."""
        place = self._place(base)
        return files_digest(model_files(place), place)

    def size(self, base: Path) -> int | None:
        """Bytes of the model files."""
        place = self._place(base)
        return sum(path.stat().st_size for path in model_files(place)) if place.is_dir() else None

    def here(self, base: Path) -> Path | None:
        """The folder itself."""
        place = self._place(base)
        return place if place.is_dir() else None

    def _place(self, base: Path) -> Path:
        return locate(self.path, base)
