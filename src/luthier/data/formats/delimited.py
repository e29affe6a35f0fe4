"""CSV and its relatives: delimiter and encoding found from the content, every row with the line on which it starts."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from luthier.core.errors import DataError, Where
from luthier.data.formats.lines import LONGEST_BYTES, BadLine, head, lines
from luthier.data.row import Broken, Record

if TYPE_CHECKING:
    from _csv import Reader

DELIMITERS = (",", ";", "\t", "|")
_NAMES = {"\t": "tab", ";": "semicolon", "|": "bar", ",": "comma"}


class Dialect(NamedTuple):
    """How a delimited file is written."""

    delimiter: str
    quote: str
    encoding: str
    note: str


def dialect(path: Path, name: str, delimiter: str = "auto", quote: str = '"', encoding: str = "auto") -> Dialect:
    """The file's way of writing: what was asked for, or what its first lines show."""
    first = head(path, name, encoding)
    if delimiter != "auto":
        return Dialect(delimiter, quote, first.encoding, first.note)
    found = _delimiter(first.text, quote)
    note = "" if found == "," else f"{name}: fields are separated by {_NAMES[found]} (seen in its first lines)"
    return Dialect(found, quote, first.encoding, note)


def _delimiter(text: str, quote: str) -> str:
    """The candidate that cuts most of the first rows into the same number of fields, at least two."""
    sample = text.splitlines(keepends=True)[:200]
    if len(sample) > 1 and len(text) > 60_000:
        sample = sample[:-1]  # the head may end inside a row
    scores: dict[str, tuple[int, float]] = {}
    for candidate in DELIMITERS:
        counts = _field_counts(sample, candidate, quote)
        if counts and counts[0] > 1:
            same = sum(1 for count in counts if count == counts[0]) / len(counts)
            scores[candidate] = (round(same * 100), counts[0])
    return max(scores, key=lambda one: scores[one]) if scores else ","


def _field_counts(sample: list[str], delimiter: str, quote: str) -> list[int]:
    counts: list[int] = []
    try:
        for row in _reader(sample, delimiter, quote, strict=False):
            if row:
                counts.append(len(row))
    except csv.Error:
        pass  # what was counted before the broken row decides
    return counts


def _reader(source: Iterable[str], delimiter: str, quote: str, *, strict: bool) -> Reader:
    if quote:
        return csv.reader(source, delimiter=delimiter, quotechar=quote, strict=strict)
    return csv.reader(source, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=strict)


class _Lines:
    """Lines for Python's CSV reader; remembers a line that could not be decoded, so that its row can be named."""

    def __init__(self, source: Iterator[str | BadLine]) -> None:
        self._source = source
        self.bad: BadLine | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._source)
        if isinstance(line, BadLine):
            self.bad = line
            return line.text
        return line

    def take_bad(self) -> BadLine | None:
        bad, self.bad = self.bad, None
        return bad


def read(
    path: Path,
    name: str,
    *,
    delimiter: str = "auto",
    quote: str = '"',
    encoding: str = "auto",
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Record | Broken]:
    """Rows of a delimited file with a header; a broken row is yielded as such, and reading goes on behind it."""
    written = dialect(path, name, delimiter, quote, encoding)
    if written.note:
        say(written.note)
    csv.field_size_limit(LONGEST_BYTES)
    source = _Lines(lines(path, name, written.encoding))
    reader = _reader(source, written.delimiter, written.quote, strict=True)
    columns = _header(reader, source, name)
    empty = True
    for found in _rows(reader, source, columns, name):
        empty = False
        yield found
    if empty:
        raise DataError("has a header and no rows", where=Where(file=name), remedy="give a file with at least one row")


def _header(reader: Reader, source: _Lines, name: str) -> list[str]:
    try:
        cells = next((row for row in reader if row or source.bad), [])
    except csv.Error as error:
        raise DataError(f"the header cannot be read: {error}", where=Where(file=name, line=1)) from error
    if bad := source.take_bad():
        raise DataError(bad.problem, where=Where(file=name, line=1), remedy=bad.remedy)
    columns = [cell.strip() or f"column_{index + 1}" for index, cell in enumerate(cells)]
    for column in columns:
        if columns.count(column) > 1:
            where = Where(file=name, line=1, field=column)
            raise DataError(f"the header names {column!r} twice", where=where, remedy="give every column its own name")
    return columns


def _rows(reader: Reader, source: _Lines, columns: list[str], name: str) -> Iterator[Record | Broken]:
    width = len(columns)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            bad = source.take_bad()
            last = reader.line_num
            within = f"; lines {line} to {last} were read as this one row" if last > line else ""
            yield Broken(name, line, (bad.problem if bad else _csv_problem(str(error))) + within)
            continue
        if bad := source.take_bad():
            yield Broken(name, line, bad.problem, remedy=bad.remedy)
        elif len(cells) == width:
            yield Record(dict(zip(columns, cells, strict=True)), name, line)
        elif cells:
            yield Broken(name, line, f"the row has {_fields(len(cells))}, the header has {width}")


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"


def _csv_problem(said: str) -> str:
    if "unexpected end of data" in said:
        return "a quote is opened in this row and never closed"
    if "field larger" in said:
        return f"a field is longer than {LONGEST_BYTES >> 20} MiB; perhaps a quote is never closed"
    return f"the row's quoting is broken ({said})"
