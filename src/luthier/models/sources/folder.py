"""A Hugging Face folder on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import files_digest
from luthier.models.ctranslate2.reader import is_ctranslate2_folder
from luthier.models.ctranslate2.whisper import convert_ctranslate2_whisper
from luthier.models.describe import read_licence
from luthier.models.source import (
    ModelProvenance,
    ModelSource,
    Say,
    check_model_folder,
    copy_model_folder,
    list_model_files,
)


class FolderModelSource(ModelSource):
    """A folder with `config.json`, safetensors weights and a tokenizer; or Whisper in CTranslate2's format."""

    kind: Literal["folder"] = "folder"
    path: PathText
    """The folder; a relative path starts at the recipe's folder, and `$NAME` is taken from the environment."""

    def fetch(self, folder: Path, recipe_dir: Path, say: Say) -> ModelProvenance:
        """Copy the folder's model files, or convert them."""
        model_dir = self._place(recipe_dir)
        if is_ctranslate2_folder(model_dir):
            convert_ctranslate2_whisper(model_dir, folder, say)
        else:
            copy_model_folder(model_dir, folder, say)
        return ModelProvenance(model_dir.resolve().name, read_licence(model_dir), f"folder {model_dir.resolve().name}")

    def in_place(self, recipe_dir: Path, say: Say) -> Path:
        """Return the folder itself, after checking it."""
        check_model_folder(self._place(recipe_dir))
        return self._place(recipe_dir)

    def identity(self, recipe_dir: Path) -> str:
        """Return a digest of the model files' names and bytes."""
        model_dir = self._place(recipe_dir)
        return files_digest(_list_files(model_dir), model_dir)

    def size(self, recipe_dir: Path) -> int | None:
        """Return the bytes of the model files."""
        model_dir = self._place(recipe_dir)
        return sum(path.stat().st_size for path in _list_files(model_dir)) if model_dir.is_dir() else None

    def here(self, recipe_dir: Path) -> Path | None:
        """Return the folder itself."""
        model_dir = self._place(recipe_dir)
        return model_dir if model_dir.is_dir() and not is_ctranslate2_folder(model_dir) else None

    def _place(self, recipe_dir: Path) -> Path:
        return resolve_path(self.path, recipe_dir)


def _list_files(folder: Path) -> list[Path]:
    if is_ctranslate2_folder(folder):
        return [path for name in ("config.json", "model.bin", "tokenizer.json") if (path := folder / name).is_file()]
    return list_model_files(folder)
