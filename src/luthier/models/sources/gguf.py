"""A GGUF file on this machine, dequantised."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from luthier.core.digest import file_digest
from luthier.core.paths import PathText, locate
from luthier.models.from_gguf import convert
from luthier.models.source import ModelSource, Provenance, Say


class Gguf(ModelSource):
    """A GGUF file: its weights are dequantised, its tokenizer and chat template rebuilt."""

    kind: Literal["gguf"] = "gguf"
    path: PathText
    """The `.gguf` file; a relative path starts at the recipe's folder, and `$NAME` is taken from the environment."""

    def fetch(self, folder: Path, base: Path, say: Say) -> Provenance:
        """Convert the file."""
        path = self._place(base)
        head = convert(path, folder, say)
        return Provenance(path.stem, head.licence, f"GGUF file {path.name}")

    def identity(self, base: Path) -> str:
        """A digest of the file's bytes."""
        return file_digest(self._place(base))

    def size(self, base: Path) -> int | None:
        """Bytes of the file."""
        path = self._place(base)
        return path.stat().st_size if path.is_file() else None

    def _place(self, base: Path) -> Path:
        return locate(self.path, base)
