"""Estimate the memory of a workbook before it is read, and refuse decompression bombs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import BinaryIO, cast
from xml.parsers import expat

from luthier.core.errors import DataError, SourceLocation
from luthier.data.formats import archives

CELL_BYTES = 32
"""What calamine holds for each place between a sheet's first cell and its last, also for an empty one."""
_CHUNK = 1 << 20
_CONTENT = frozenset({"v", "is", "f"})
_SHARED_TEXTS = "sharedstrings.xml"
_LONG = 256
"""Texts up to this length take little beside their cells, however many share one."""
_ROW, _CELLS, _SHEET, _DATA, _DATA_ENDS = 0, range(2, 12), 129, 145, 146
"""Records of a binary sheet (MS-XLSB, 2.3.2): a row's header, cells with content, where a sheet and its data begin."""


def refuse_oversized_sheets(opened: BinaryIO, most_bytes: int, name: str) -> None:
    """Refuse a workbook whose sheets spread over more than fits, however few cells they hold."""
    with archives.open_zip_archive(opened, name) as archive:
        lengths = _shared_lengths(archive, name)
        for info in archive.infolist():
            if info.filename.lower().endswith(_SHARED_TEXTS):
                continue
            with archives.open_zip_member(archive, info, name) as part:
                sheet = _binary(part) if info.filename.endswith(".bin") else _xml(part, info.filename, name, lengths)
            _refuse(sheet, info.filename, most_bytes, name)


class _Sheet:
    """What one part holds: where its cells lie, and how long the shared texts in them are together."""

    def __init__(self) -> None:
        self.top = self.left = 1 << 31
        self.bottom = self.right = -1
        self.cells = self.shared = 0

    def put(self, row: int, column: int) -> None:
        """A cell that is not empty."""
        self.cells += 1
        self.top, self.bottom = min(self.top, row), max(self.bottom, row)
        self.left, self.right = min(self.left, column), max(self.right, column)

    @property
    def spread(self) -> int:
        """Places between the first cell and the last."""
        return max(0, self.bottom - self.top + 1) * max(0, self.right - self.left + 1)


def _refuse(sheet: _Sheet, part: str, most_bytes: int, name: str) -> None:
    where = SourceLocation(file=name, field=part)
    if sheet.spread * CELL_BYTES > 2 * most_bytes:
        problem = f"its {sheet.cells} cells spread over {sheet.bottom + 1} rows and {sheet.right + 1} columns"
        hint = "delete the cells that lie far from the table, or save its rows as CSV"
        raise DataError(f"{problem}, more than fits the memory", where=where, hint=hint)
    if sheet.shared > most_bytes:
        problem = f"would take {sheet.shared >> 20} MiB of memory; at most {most_bytes >> 20} are given to one document"
        raise DataError(problem, where=where, hint="save it in parts, or its rows as CSV or Parquet")


class _Cells:
    """Handlers of expat that follow the cells of a sheet as calamine does; `r` may be missing in rows and cells."""

    def __init__(self, lengths: list[int]) -> None:
        self.sheet = _Sheet()
        self.root = ""
        self._lengths = lengths
        self._row = self._column = -1
        self._is_shared = False
        self._number: list[str] | None = None

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """A row, a cell, or what a cell holds."""
        kind = tag.rpartition(":")[2]
        self.root = self.root or kind
        if kind == "c":
            self._cell(attributes.get("r", ""))
            self._is_shared = attributes.get("t") == "s"
        elif kind in _CONTENT:
            self.sheet.put(self._row, self._column)
            self._number = [] if self._is_shared and kind == "v" else None
        elif kind == "row":
            number = attributes.get("r", "")
            self._row = int(number) - 1 if number.isdecimal() else self._row + 1
            self._column = -1

    def _cell(self, reference: str) -> None:
        letters = reference.rstrip("0123456789").upper()
        if not letters.isascii() or not letters.isalpha():
            self._column += 1
            return
        self._column = 0
        for letter in letters[:4]:
            self._column = 26 * self._column + ord(letter) - 64
        self._column -= 1
        number = reference[len(letters) :]
        self._row = int(number) - 1 if number else self._row

    def text(self, piece: str) -> None:
        """The number of a shared text."""
        if self._number is not None:
            self._number.append(piece)

    def end(self, tag: str) -> None:
        """A cell's content ends: a shared text is counted with its length."""
        if self._number is not None and tag.rpartition(":")[2] == "v":
            number, self._number = "".join(self._number).strip(), None
            if number.isdecimal() and int(number) < len(self._lengths):
                self.sheet.shared += self._lengths[int(number)]


def _xml(part: BinaryIO, inside: str, name: str, lengths: list[int]) -> _Sheet:
    cells = _Cells(lengths)
    parser = expat.ParserCreate()
    parser.StartElementHandler = cells.start
    if max(lengths, default=0) > _LONG:
        parser.CharacterDataHandler, parser.EndElementHandler = cells.text, cells.end
    try:
        _feed(parser, part)
    except expat.ExpatError as error:
        if cells.root == "worksheet" or "worksheets/" in inside:
            raise _broken(error, inside, name) from error
    return cells.sheet


def _shared_lengths(archive: zipfile.ZipFile, name: str) -> list[int]:
    """How many characters each shared text has."""
    info = next(
        (zip_info for zip_info in archive.infolist() if zip_info.filename.lower().endswith(_SHARED_TEXTS)), None
    )
    if info is None:
        return []
    lengths: list[int] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag.rpartition(":")[2] == "si":
            lengths.append(0)

    def text(piece: str) -> None:
        if lengths:
            lengths[-1] += len(piece)

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.CharacterDataHandler = start, text
    try:
        with archives.open_zip_member(archive, info, name) as part:
            _feed(parser, part)
    except expat.ExpatError as error:
        raise _broken(error, info.filename, name) from error
    return lengths


def _feed(parser: expat.XMLParserType, part: BinaryIO) -> None:
    while chunk := part.read(_CHUNK):
        parser.Parse(chunk, False)
    parser.Parse(b"", True)


def _broken(error: expat.ExpatError, inside: str, name: str) -> DataError:
    hint = "save it anew from a spreadsheet program, or its rows as CSV"
    return DataError(f"its XML is broken: {error}", where=SourceLocation(file=name, field=inside), hint=hint)


def _binary(part: BinaryIO) -> _Sheet:
    sheet, row, within = _Sheet(), -1, False
    for index, (kind, number) in enumerate(_records(part)):
        if index == 0 and kind != _SHEET:
            break
        if kind in (_DATA, _DATA_ENDS):
            within = kind == _DATA
        elif within and kind == _ROW:
            row = number
        elif within and kind in _CELLS:
            sheet.put(row, number)
    return sheet


def _records(part: BinaryIO) -> Iterator[tuple[int, int]]:
    """The kinds of a binary part's records, each with the number that its content begins with."""
    reader = cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, part), _CHUNK))
    while head := reader.read(1):
        kind = head[0]
        if kind & 0x80:
            kind = kind & 0x7F | _byte(reader) << 7
        size = 0
        for shift in (0, 7, 14, 21):
            byte = _byte(reader)
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        yield kind, int.from_bytes(reader.read(size)[:4], "little")


def _byte(reader: BinaryIO) -> int:
    return (reader.read(1) or b"\0")[0]
