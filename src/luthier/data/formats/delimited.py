"""CSV and its relatives: written as its first lines show, every row with the line on which it starts.

A quote that is never closed takes one row with it, not the file: the row in which it stands is broken, and the lines
behind it are read again, each on its own merits.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from luthier.core.errors import DataError, SourceLocation
from luthier.core.events import format_counted_noun
from luthier.data.formats import dialect as dialects
from luthier.data.formats.dialect import Dialect, Header
from luthier.data.formats.files import SourceFile
from luthier.data.formats.lines import LONGEST_BYTES, TextHead, UndecodableLine, read_text_head, read_text_lines
from luthier.data.row import BrokenRow, SourceRecord

_MOST_COLUMNS = 10_000


class DelimitedFormat(NamedTuple):
    """What is known of a file before its rows are read."""

    dialect: Dialect
    header: bool | tuple[str, ...]
    """Whether the first row names the columns; or their names, when it doesn't."""
    first: TextHead
    notes: list[str]
    above: int = 0
    """Lines that stand above the header."""
    titles: str = ""
    """What is said of those that were found there."""


def detect_delimited_format(
    file: SourceFile, *, delimiter: str = "auto", quote: str = "auto", encoding: str = "auto", header: Header = "auto"
) -> DelimitedFormat:
    """The file's way of writing: what was asked for, or what its first lines show."""
    first = read_text_head(file, encoding)
    lines = first.text.splitlines(keepends=True)
    above = 0
    if named := dialects.delimiter_from_sep_line(lines[0] if lines else ""):
        above, delimiter = 1, named if delimiter == "auto" else delimiter
    if isinstance(header, int):
        above = header - 1
    found = dialects.detect_dialect("".join(lines[above:]), delimiter, quote, whole=first.whole)
    dialect = Dialect(found.delimiter if delimiter == "auto" else ",", found.quote if quote == "auto" else '"')
    notes = [first.note, dialects.describe_dialect(dialect, file.name)]
    if isinstance(header, tuple):
        return DelimitedFormat(found, header, first, notes, above)
    is_named, titles = header != "no", dialects.TableTitles(0)
    if header == "auto":
        titles = dialects.find_table_titles(found, lines[above:])
        above += titles.lines
        notes.append(f"{file.name}: {titles.description}" if titles.description else "")
        rows = found.reader(lines[above : above + 50], strict=False)
        is_named = dialects.has_header([row for row in rows if row][:40])
        if not is_named:
            notes.append(f"{file.name}: its first row is data, not a header; columns are column_1, column_2, …")
    return DelimitedFormat(found, is_named, first, notes, above, titles.description)


def read_delimited_rows(
    file: SourceFile,
    *,
    delimiter: str = "auto",
    quote: str = "auto",
    encoding: str = "auto",
    header: Header = "auto",
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[SourceRecord | BrokenRow]:
    """Rows of a delimited file; a broken row is yielded as such, and reading goes on behind it."""
    written = detect_delimited_format(file, delimiter=delimiter, quote=quote, encoding=encoding, header=header)
    for note in filter(None, written.notes):
        say(note)
    csv.field_size_limit(LONGEST_BYTES)
    source = _Lines(read_text_lines(file, written.first))
    for passed in range(written.above):
        if next(source, None) is None:
            what = f"has {format_counted_noun(passed, 'line')}, and the header is to stand in line {header}"
            hint = "set `header` to the line with the names of the columns"
            raise DataError(what, where=SourceLocation(file=file.name, field="header"), hint=hint)
    source.begin()
    columns = dialects.make_columns_unique(_columns(written, source, file.name), file.name, say)
    empty = True
    hidden = bool(dialects.delimiter_from_sep_line(next(iter(written.first.text.splitlines()), "")))
    for found in _rows(written.dialect, source, columns, file.name, hidden):
        empty = False
        yield found
    if empty:
        raise DataError("has a header and no rows", where=file.where, hint="give a file with at least one row")


class _Lines:
    """Lines for Python's CSV reader, which remembers those of the row at hand and takes lines back."""

    def __init__(self, source: Iterator[str | UndecodableLine]) -> None:
        self._source = source
        self._back: deque[str | UndecodableLine] = deque()
        self._chars = 0
        self.number = 0
        """How many lines were handed out."""
        self.taken: list[str | UndecodableLine] = []
        """The lines of the row at hand."""
        self.bad: UndecodableLine | None = None
        """The first of them that cannot be decoded."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._chars > LONGEST_BYTES:
            raise csv.Error("field larger than field limit")
        line = self._back.popleft() if self._back else next(self._source)
        self.number += 1
        self.taken.append(line)
        if isinstance(line, UndecodableLine):
            self.bad = self.bad or line
            return line.text
        self._chars += len(line)
        return line

    def begin(self) -> int:
        """Begin a row; returns the line on which it starts."""
        self.taken, self.bad, self._chars = [], None, 0
        return self.number + 1

    def take_back(self, *, all_of_it: bool = False) -> None:
        """Take back the lines of the row at hand, but for the first."""
        rest = self.taken if all_of_it else self.taken[1:]
        self._back.extendleft(reversed(rest))
        self.number -= len(rest)


def _columns(written: DelimitedFormat, source: _Lines, name: str) -> list[str]:
    """The names of the columns; lines that hold data are given back."""
    if isinstance(written.header, tuple):
        return list(written.header)
    cells = _first_row(written.dialect, source, name)
    columns = [cell.strip() or f"column_{index + 1}" for index, cell in enumerate(cells)]
    if not written.header:
        source.take_back(all_of_it=True)
        return [f"column_{index + 1}" for index in range(len(cells))]
    return columns


def _first_row(dialect: Dialect, source: _Lines, name: str) -> list[str]:
    try:
        cells = next((row for row in dialect.reader(source, strict=True) if row or source.bad), [])
    except csv.Error as error:
        hint = "mend its quotes, or set `quote`"
        raise DataError(
            f"the header cannot be read: {error}", where=SourceLocation(file=name, line=1), hint=hint
        ) from error
    if source.bad:
        raise DataError(source.bad.problem, where=SourceLocation(file=name, line=1), hint=source.bad.hint)
    if len(cells) > _MOST_COLUMNS:
        hint = "check `delimiter`, or give the table as Parquet"
        raise DataError(f"its first row has {len(cells)} columns", where=SourceLocation(file=name, line=1), hint=hint)
    return cells


def _rows(
    dialect: Dialect, source: _Lines, columns: list[str], name: str, hidden: int = 0
) -> Iterator[SourceRecord | BrokenRow]:
    """`hidden` lines of those before the first row are shown by no spreadsheet."""
    reader = dialect.reader(source, strict=True)
    width, doubt, count = len(columns), _Doubt(0, 0), source.number - hidden
    while True:
        line, cells, problem = source.begin(), list[str](), ""
        count += 1  # as a spreadsheet counts; where a quote is in doubt, nobody knows how it reads on
        row = count if count != line and not doubt.line else None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = _csv_problem(str(error))
        many = source.number > line
        if many and (problem or len(cells) != width) and _stand_alone(source, dialect, width):
            doubt = _Doubt(line, source.number) if source.number > doubt.last else doubt
            problem = problem or "a quote is opened in this row and closed in another"
            what = f"{problem}; the lines behind it, to {source.number}, are read on their own"
            yield BrokenRow(name, line, what, row=row)
            source.take_back()
            reader = dialect.reader(source, strict=True)
        elif problem or source.bad:
            within = f"; lines {line} to {source.number} were read as this one row" if many else ""
            bad = source.bad or UndecodableLine(problem, "")
            yield BrokenRow(name, line, bad.problem + within, hint=bad.hint, row=row)
        elif line <= doubt.last and not dialect.stands("".join(map(_text, source.taken))):
            yield BrokenRow(name, line, f"may belong to the text of the quote that is opened in line {doubt.line}")
        elif len(cells) == width:
            yield SourceRecord(dict(zip(columns, cells, strict=True)), name, line, row=row)
        elif cells:
            yield BrokenRow(
                name, line, f"the row has {format_counted_noun(len(cells), 'field')}, the header has {width}", row=row
            )


class _Doubt(NamedTuple):
    """Lines that are read again because a quote was opened before them."""

    line: int
    """Where the quote is opened."""
    last: int


def _text(line: str | UndecodableLine) -> str:
    return line.text if isinstance(line, UndecodableLine) else line


def _stand_alone(source: _Lines, dialect: Dialect, width: int) -> bool:
    """Whether nearly all lines behind the row's first are rows of their own.

    Lines that cannot be decoded say nothing, nor does one on which another quote ended the row.
    """
    rest = [line for line in source.taken[1:] if isinstance(line, str) and line.strip()]
    if rest and rest[-1] is source.taken[-1] and not dialect.stands(rest[-1]):
        rest.pop()
    standing = sum(dialect.stands(line) and len(_cells(dialect, line)) == width for line in rest)
    return standing > 0 and standing * 5 >= len(rest) * 4


def _cells(dialect: Dialect, line: str) -> list[str]:
    return next(islice(dialect.reader([line], strict=False), 1), [])


def _csv_problem(message: str) -> str:
    if "unexpected end of data" in message:
        return "a quote is opened in this row and never closed"
    if "field larger" in message:
        return f"a field is longer than {LONGEST_BYTES >> 20} MiB; perhaps a quote is never closed"
    return f"the row's quoting is broken ({message})"
