"""Comma-separated values and their relatives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from luthier.data.formats import delimited
from luthier.data.row import Broken, Record
from luthier.data.source import FileSource, Say


class Csv(FileSource):
    """A CSV file with a header; delimiter and encoding are found from its content."""

    kind: Literal["csv"] = "csv"
    delimiter: Literal["auto", ",", ";", "\t", "|"] = "auto"
    """What stands between fields; `auto` looks at the first lines and says what it found."""
    quote: Literal['"', "'", ""] = '"'
    """What encloses fields that hold delimiters or newlines; empty when the file does not quote."""
    encoding: str = "auto"
    """`auto` reads UTF-8 with or without a mark; otherwise a name such as cp1252, latin-1 or utf-16."""

    def read(self, base: Path, say: Say) -> Iterator[Record | Broken]:
        """Yield every row with the line on which it starts."""
        place = self.place(base)
        return delimited.read(
            place, self.path, delimiter=self.delimiter, quote=self.quote, encoding=self.encoding, say=say
        )
