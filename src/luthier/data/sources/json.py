"""JSON files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from luthier.data.formats import json_rows
from luthier.data.formats.file import File
from luthier.data.formats.look import Fit, Look
from luthier.data.row import Broken, Record
from luthier.data.source import FileSource, Say


class Json(FileSource):
    """JSON files with an array of objects, or an object that holds one; read element by element."""

    kind: Literal["json"] = "json"
    endings: ClassVar[tuple[str, ...]] = (".json",)
    names_columns: ClassVar[bool] = True
    rows: str | None = None
    """The member that holds the rows, when the file is an object with several arrays; else the only one is taken."""
    encoding: str = "auto"
    """`auto` reads UTF-8, UTF-16 and what the first bytes show; otherwise a name such as latin-1."""

    @classmethod
    def recognises(cls, look: Look) -> Fit:
        """An array of objects, or an object that is no line of JSON lines."""
        if look.start.startswith("["):
            return Fit.LIKELY if look.start[1:].lstrip().startswith("{") else Fit.NO
        return Fit.LIKELY if look.start.startswith("{") else Fit.NO

    def read_file(self, file: File, say: Say) -> Iterator[Record | Broken]:
        """Yield every object with the line on which it starts."""
        return json_rows.read(file, encoding=self.encoding, rows=self.rows, say=say)
