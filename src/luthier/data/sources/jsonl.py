"""JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from luthier.data.formats import jsonl
from luthier.data.formats.file import File
from luthier.data.formats.look import Fit, Look
from luthier.data.row import Broken, Record
from luthier.data.source import FileSource, Say


class Jsonl(FileSource):
    """Files with one JSON object a line."""

    kind: Literal["jsonl"] = "jsonl"
    endings: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson")
    names_columns: ClassVar[bool] = True
    encoding: str = "auto"
    """`auto` reads UTF-8, UTF-16 and what the first lines show; otherwise a name such as latin-1."""

    @classmethod
    def recognises(cls, look: Look) -> Fit:
        """Its first line is an object, and a second one stands behind it, or the ending says so."""
        if look.first_object is None:
            return Fit.POSSIBLE if look.ending in cls.endings and look.start.startswith("{") else Fit.NO
        another = look.start.partition("\n")[2].lstrip().startswith("{")
        return Fit.CERTAIN if another or look.ending in cls.endings else Fit.LIKELY

    def read_file(self, file: File, say: Say) -> Iterator[Record | Broken]:
        """Yield every object with its line."""
        return jsonl.read(file, encoding=self.encoding, say=say)
