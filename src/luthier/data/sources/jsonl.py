"""JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from luthier.data.formats import jsonl
from luthier.data.row import Broken, Record
from luthier.data.source import FileSource, Say


class Jsonl(FileSource):
    """A file with one JSON object a line."""

    kind: Literal["jsonl"] = "jsonl"
    encoding: str = "auto"
    """`auto` reads UTF-8 with or without a mark; otherwise a name such as utf-16 or latin-1."""

    def read(self, base: Path, say: Say) -> Iterator[Record | Broken]:
        """Yield every object with its line."""
        return jsonl.read(self.place(base), self.path, encoding=self.encoding)
