"""Spreadsheets (xlsx, xlsm, xlsb, xls, ods): the values that the sheet was saved with; no formula is ever evaluated."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from luthier.core.errors import DataError, SourceLocation, did_you_mean
from luthier.data.formats import archives, dialect, merged_cells, workbook_memory
from luthier.data.formats.files import SourceFile
from luthier.data.formats.tables import to_json_value
from luthier.data.row import BrokenRow, SourceRecord

MOST_BYTES = 512 << 20
"""A workbook whose parts take more than this unpacked is refused: it is read as a whole."""
_LOOKED_AT = 40


def read_sheet_rows(
    file: SourceFile,
    *,
    sheet: str | int | None = None,
    header: dialect.Header = "auto",
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[SourceRecord | BrokenRow]:
    """Rows of one sheet; a row's line is its number in the sheet."""
    rows, groups = _filled(file, sheet, say)
    if header == "auto":
        table_titles = _titles(rows, groups)
        if table_titles.description:
            say(f"{file.name}: {table_titles.description}")
        rows = _from_header(rows, groups, table_titles.lines)
    elif isinstance(header, int):
        rows = _from_header(rows, groups, _place(rows, header, file))
    columns, rows = _columns(rows, header, file, say)
    columns = dialect.make_columns_unique(columns, file.name, say)
    _with_times(rows)
    for number, row in rows:
        if len(row) > len(columns) and any(cell != "" for cell in row[len(columns) :]):
            yield BrokenRow(file.name, number, f"the row has more fields than the header, which has {len(columns)}")
        else:
            yield SourceRecord(dict(zip(columns, map(_value, row), strict=False)), file.name, number)
    if not rows:
        raise DataError("has a header and no rows", where=file.where, hint="give a sheet with at least one row")


def find_header_row(file: SourceFile, sheet: str | int | None) -> tuple[int, str] | None:
    """The row in which the columns are named, and what is said of those above; None where it is the first, or none."""
    rows, groups = _filled(file, sheet, lambda text: None)
    table_titles = _titles(rows, groups)
    shown = [[str(cell) for cell in row] for _, row in rows[table_titles.lines : table_titles.lines + _LOOKED_AT]]
    return (
        (rows[table_titles.lines][0], table_titles.description)
        if table_titles.lines and dialect.has_header(shown)
        else None
    )


def find_largest_sheet(file: SourceFile) -> tuple[str, list[str]] | None:
    """The sheet with the largest used area, and the names of all; None where the first one is, or the only one."""
    from python_calamine import CalamineWorkbook

    with file.local() as path:
        _refuse_bombs(file)
        with _readable(file), CalamineWorkbook.from_path(str(path)) as book:
            names = book.sheet_names
            areas = [entry.height * entry.width for entry in map(book.get_sheet_by_name, names)]
    best = areas.index(max(areas)) if areas else 0
    return (names[best], names) if best else None


def _refuse_bombs(file: SourceFile) -> None:
    with file.open() as opened:
        start = opened.read(4)
    if start == b"PK\x03\x04":
        with file.local() as path, path.open("rb") as archive:
            archives.refuse_oversized_document(archive, MOST_BYTES, file.name)
            workbook_memory.refuse_oversized_sheets(archive, MOST_BYTES, file.name)


class _Table(NamedTuple):
    """The cells of a sheet, how many empty rows stand above them, and which were merged."""

    cells: list[list[Any]]
    above: int
    blocks: list[merged_cells.MergedCells]


def _table(path: str, file: SourceFile, sheet: str | int | None, say: Callable[[str], None]) -> _Table:
    from python_calamine import CalamineWorkbook

    with _readable(file), CalamineWorkbook.from_path(path) as book:
        name = _sheet(book.sheet_names, sheet, file, say)
        found = book.get_sheet_by_name(name)
        start = found.start or (0, 0)
        cells = found.to_python(skip_empty_area=True)
        return _Table(cells, start[0], merged_cells.find_merged_cells(found.merged_cell_ranges, cells, start))


@contextmanager
def _readable(file: SourceFile) -> Iterator[None]:
    """Say what is wrong with a workbook that cannot be read."""
    from python_calamine import CalamineError

    try:
        yield
    except (CalamineError, OSError, ValueError) as error:
        hint = "check that it is whole and not locked with a password; or save the sheet as CSV"
        problem = f"is not a spreadsheet that can be read: {str(error).splitlines()[0] if str(error) else error!r}"
        raise DataError(problem, where=file.where, hint=hint) from error


def _sheet(names: list[str], requested: str | int | None, file: SourceFile, say: Callable[[str], None]) -> str:
    if not names:
        raise DataError("holds no sheet", where=file.where, hint="check that it is whole; save it anew")
    if requested is None:
        if len(names) > 1:
            say(f"{file.name}: the sheet {names[0]!r} is read; there are {len(names)}: {', '.join(names)}")
        return names[0]
    if isinstance(requested, int) and 1 <= requested <= len(names):
        return names[requested - 1]
    if requested not in names:
        where = SourceLocation(file=file.name, field="sheet")
        raise DataError(f"there is no sheet {requested!r}", where=where, hint=did_you_mean(str(requested), names))
    return str(requested)


Rows = list[tuple[int, list[Any]]]


def _filled(file: SourceFile, sheet: str | int | None, say: Callable[[str], None]) -> tuple[Rows, dict[int, list[Any]]]:
    """The rows with a value, by number, and which of them group columns."""
    with file.local() as path:
        _refuse_bombs(file)
        table, first, blocks = _table(str(path), file, sheet, say)
    if merged_cells.fill_down(table, blocks):
        say(f"{file.name}: cells are merged over several rows; each of these rows has what stands in them")
    groups = {first + 1 + index: group for index, group in merged_cells.find_group_header_rows(table, blocks).items()}
    rows = [(number, row) for number, row in enumerate(table, start=first + 1) if any(cell != "" for cell in row)]
    if not rows:
        raise DataError("the sheet is empty", where=file.where, hint="set `sheet` to one with rows")
    return rows, groups


def _titles(rows: Rows, groups: dict[int, list[Any]]) -> dialect.TableTitles:
    """How many rows stand above the header."""
    shown = [[str(cell) for cell in row] for _, row in rows[:_LOOKED_AT]]
    passed = {at for at, (number, _) in enumerate(rows[:_LOOKED_AT]) if number in groups}
    above = dialect.count_rows_above_header(shown, passed)
    return (
        dialect.TableTitles(above, dialect.describe_rows_above_header(shown[:above], "row"))
        if above
        else dialect.TableTitles(0)
    )


def _place(rows: Rows, header: int, file: SourceFile) -> int:
    """Where the row with some number stands among those with a value."""
    index = next((at for at, (number, _) in enumerate(rows) if number == header), None)
    if index is None:
        where = SourceLocation(file=file.name, field="header")
        hint = f"set `header` to the row with the names of the columns; the first with a value is {rows[0][0]}"
        raise DataError(f"row {header} is empty", where=where, hint=hint)
    return index


def _from_header(rows: Rows, groups: dict[int, list[Any]], above: int) -> Rows:
    """The rows without those above the header; columns of one name have their group in front."""
    line, header = rows[above]
    group = groups.get(rows[above - 1][0]) if above else None
    return [(line, merged_cells.disambiguate_columns(header, group) if group else header), *rows[above + 1 :]]


def _columns(
    rows: Rows, header: dialect.Header, file: SourceFile, say: Callable[[str], None]
) -> tuple[list[str], Rows]:
    if isinstance(header, tuple):
        return list(header), rows
    width = max(len(row) for _, row in rows)
    shown = [[str(cell) for cell in row] for _, row in rows[:_LOOKED_AT]]
    if header == "no" or (header == "auto" and not dialect.has_header(shown)):
        if header == "auto":
            say(f"{file.name}: its first row is data, not a header; columns are column_1, column_2, …")
        return [f"column_{index + 1}" for index in range(width)], rows
    columns = [str(_value(cell)).strip() or f"column_{index + 1}" for index, cell in enumerate(rows[0][1])]
    return columns, rows[1:]


def _with_times(rows: Rows) -> None:
    """Give days a time in columns where others have one: a moment at midnight is read as a day alone."""
    indices = {index for _, row in rows for index, cell in enumerate(row) if isinstance(cell, datetime.datetime)}
    for _, row in rows:
        for index in indices:
            if index < len(row) and type(row[index]) is datetime.date:
                row[index] = datetime.datetime.combine(row[index], datetime.time())


def _value(cell: Any) -> Any:
    """A cell's value: whole numbers without a point, dates as ISO text, an empty cell as empty text."""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1 << 53:
        return int(cell)
    return to_json_value(cell)
