"""A GGUF file on this machine, which is dequantized."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import file_digest
from luthier.models.gguf.reader import convert_gguf
from luthier.models.source import ModelProvenance, ModelSource, Say


class Gguf(ModelSource):
    """A GGUF file: its weights are dequantized, its tokenizer and chat template rebuilt."""

    kind: Literal["gguf"] = "gguf"
    path: PathText
    """The `.gguf` file; a relative path starts at the recipe's folder, and `$NAME` is taken from the environment."""

    def fetch(self, folder: Path, recipe_dir: Path, say: Say) -> ModelProvenance:
        """Convert the file."""
        path = self._place(recipe_dir)
        head = convert_gguf(path, folder, say)
        return ModelProvenance(path.stem, head.licence, f"GGUF file {path.name}")

    def identity(self, recipe_dir: Path) -> str:
        """Return a digest of the file's bytes."""
        return file_digest(self._place(recipe_dir))

    def size(self, recipe_dir: Path) -> int | None:
        """Return the bytes of the file."""
        path = self._place(recipe_dir)
        return path.stat().st_size if path.is_file() else None

    def _place(self, recipe_dir: Path) -> Path:
        return resolve_path(self.path, recipe_dir)
