"""Spreadsheets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.data.formats import dialect, sheets
from luthier.data.formats.files import SourceFile
from luthier.data.formats.sniff import FileSample, FormatMatch
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import FileSource, Say, SuggestedSettings


class Excel(FileSource):
    """Spreadsheets (xlsx, xlsm, xlsb, xls, ods): the values that were saved; no formula is ever evaluated."""

    kind: Literal["excel"] = "excel"
    endings: ClassVar[tuple[str, ...]] = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
    sheet: str | int | None = Field(default=None)
    """The sheet's name, or its number from 1; the first when not set."""
    header: dialect.Header = Field(default="auto")
    """Whether the first row names the columns (`auto`: below titles, if any stand there); or the number of the row in
    which their names stand; or the names, for a sheet whose first row is data."""

    @classmethod
    def recognises(cls, look: FileSample) -> FormatMatch:
        """A zip with a workbook inside, or an old Office file by its ending."""
        if any(name.startswith("xl/workbook") for name in look.members):
            return FormatMatch.CERTAIN
        if look.ending == ".ods" and "content.xml" in look.members:
            return FormatMatch.CERTAIN
        return (
            FormatMatch.LIKELY
            if look.data.startswith(b"\xd0\xcf\x11\xe0") and look.ending == ".xls"
            else FormatMatch.NO
        )

    def suggest_settings(self, recipe_dir: Path) -> SuggestedSettings:
        """The fullest sheet of a workbook, where another one stands before it (notes, a cover); and the row of the
        header, where titles stand above it."""
        settings: dict[str, Any] = {}
        reasons: dict[str, str] = {}
        files = self.files(recipe_dir)
        if len(files) == 1 and self.sheet is None and (found := sheets.find_largest_sheet(files[0])):
            settings["sheet"], names = found
            others = ", ".join(name for name in names if name != settings["sheet"])
            reasons["sheet"] = f"the fullest of {len(names)} sheets; not read: {others}"
        sheet = settings.get("sheet", self.sheet)
        if len(files) == 1 and self.header == "auto" and (row := sheets.find_header_row(files[0], sheet)):
            settings["header"], reasons["header"] = row
        return SuggestedSettings(settings, reasons)

    def read_file(self, file: SourceFile, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield every row with its number in the sheet."""
        return sheets.read_sheet_rows(file, sheet=self.sheet, header=self.header, say=say)
