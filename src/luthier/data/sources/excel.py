"""Spreadsheets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from luthier.data.formats import sheets
from luthier.data.formats.file import File
from luthier.data.formats.look import Fit, Look
from luthier.data.row import Broken, Record
from luthier.data.source import Asked, FileSource, Say


class Excel(FileSource):
    """Spreadsheets (xlsx, xlsm, xlsb, xls, ods): the values that were saved; no formula is ever evaluated."""

    kind: Literal["excel"] = "excel"
    endings: ClassVar[tuple[str, ...]] = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
    sheet: str | int | None = Field(default=None)
    """The sheet's name, or its number from 1; the first when not set."""
    header: Literal["auto", "yes", "no"] | tuple[str, ...] = Field(default="auto")
    """Whether the first row names the columns (`auto`: below titles of one cell, if any stand there); or the columns'
    names, for a sheet whose first row is data."""

    @classmethod
    def recognises(cls, look: Look) -> Fit:
        """A zip with a workbook inside, or an old Office file by its ending."""
        if any(name.startswith("xl/workbook") for name in look.members):
            return Fit.CERTAIN
        if look.ending == ".ods" and "content.xml" in look.members:
            return Fit.CERTAIN
        return Fit.LIKELY if look.data.startswith(b"\xd0\xcf\x11\xe0") and look.ending == ".xls" else Fit.NO

    def asked(self, base: Path) -> Asked:
        """The fullest sheet of a workbook, where another one stands before it (notes, a cover)."""
        files = self.files(base)
        found = sheets.fullest(files[0]) if self.sheet is None and len(files) == 1 else None
        if found is None:
            return Asked({}, {})
        best, names = found
        others = ", ".join(name for name in names if name != best)
        return Asked({"sheet": best}, {"sheet": f"the fullest of {len(names)} sheets; not read: {others}"})

    def read_file(self, file: File, say: Say) -> Iterator[Record | Broken]:
        """Yield every row with its number in the sheet."""
        return sheets.read(file, sheet=self.sheet, header=self.header, say=say)
