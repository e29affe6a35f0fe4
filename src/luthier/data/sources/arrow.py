"""Arrow tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from luthier.data.formats import tables
from luthier.data.formats.files import SourceFile
from luthier.data.formats.sniff import FileSample, FormatMatch
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import FileSource, Say

_STREAM = b"\xff\xff\xff\xff"


class Arrow(FileSource):
    """Arrow files (Feather) and Arrow streams; a row's line is its number from 1."""

    kind: Literal["arrow"] = "arrow"
    endings: ClassVar[tuple[str, ...]] = (".arrow", ".feather", ".ipc", ".arrows")

    @classmethod
    def recognises(cls, look: FileSample) -> FormatMatch:
        """The mark of an Arrow file, or of a stream's first message."""
        return FormatMatch.CERTAIN if look.data.startswith((b"ARROW1", _STREAM)) else FormatMatch.NO

    def read_file(self, file: SourceFile, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield every row with its number."""
        return tables.read_arrow(file)
