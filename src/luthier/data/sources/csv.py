"""Comma-separated values and their relatives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from luthier.data.formats import delimited, dialect
from luthier.data.formats.files import SourceFile
from luthier.data.formats.sniff import FileSample, FormatMatch
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import FileSource, Say, SuggestedSettings

_MANY_ROWS = 10


class Csv(FileSource):
    """CSV, TSV and their relatives; delimiter, quotes, header and encoding are told from the content, and said."""

    kind: Literal["csv"] = "csv"
    endings: ClassVar[tuple[str, ...]] = (".csv", ".tsv", ".tab", ".psv")
    delimiter: Literal["auto", ",", ";", "\t", "|"] = "auto"
    """What stands between fields; `auto` looks at the first lines and says what it found."""
    quote: Literal["auto", '"', "'", ""] = "auto"
    """What encloses fields that hold delimiters or newlines; empty when the file does not quote."""
    header: dialect.Header = Field(default="auto")
    """Whether the first row names the columns (`auto`: below titles, if any stand there); or the line in which their
    names stand, such as 3; or the names, for a file whose first row is data."""
    encoding: str = "auto"
    """`auto` reads UTF-8, UTF-16 and what the first lines show; otherwise a name such as cp1252 or latin-1."""

    @classmethod
    def recognises(cls, look: FileSample) -> FormatMatch:
        """Rows of one width, at least two fields; one column only by its ending. Tabs in every line, as Excel saves
        tables with the ending .txt, are no prose."""
        if not look.start or look.start.startswith(("{", "[")) or look.declares_markup:
            return FormatMatch.NO
        found = dialect.detect_dialect(look.text, "auto", "auto", whole=False)
        rows = [len(row) for row in found.reader(look.text.splitlines(keepends=True)[:50][:-1], strict=False) if row]
        alike = len(rows) > 1 and rows[0] > 1 and rows.count(rows[0]) * 10 >= 9 * len(rows)
        if alike:
            is_table = found.delimiter == "\t" and len(rows) >= _MANY_ROWS
            return FormatMatch.CERTAIN if is_table else FormatMatch.LIKELY
        return FormatMatch.POSSIBLE if look.ending in cls.endings and not look.is_markup else FormatMatch.NO

    def suggest_settings(self, recipe_dir: Path) -> SuggestedSettings:
        """The line of the header, where titles stand above it."""
        files = self.files(recipe_dir)
        if self.header != "auto" or len(files) != 1:
            return SuggestedSettings({}, {})
        written = delimited.detect_delimited_format(
            files[0], delimiter=self.delimiter, quote=self.quote, encoding=self.encoding
        )
        if not written.titles or written.header is not True:
            return SuggestedSettings({}, {})
        return SuggestedSettings({"header": written.above + 1}, {"header": written.titles})

    def read_file(self, file: SourceFile, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield every row with the line on which it starts."""
        return delimited.read_delimited_rows(
            file, delimiter=self.delimiter, quote=self.quote, encoding=self.encoding, header=self.header, say=say
        )
