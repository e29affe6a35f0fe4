"""Detect the dialect of a delimited file from its first lines: delimiter, quotes, header."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from luthier.core.messages import gettext_noop

if TYPE_CHECKING:
    from _csv import Reader

DELIMITERS = (",", ";", "\t", "|")
HeaderLine = Annotated[int, Field(strict=True, ge=1)]
"""The line of a file, or the row of a sheet, in which the names of the columns stand."""
Header = Literal["auto", "yes", "no"] | HeaderLine | tuple[str, ...]
_NAMES = {"\t": "tab", ";": "semicolon", "|": "bar", ",": "comma"}
_SAMPLE_ROWS = 200
_NUMBER = re.compile(r"\A[+-]?[.,:/ -]*\d[\d.,:/ %-]*")
_NOT_A_NAME_CHARS = 100
_FEW_ROWS = 3
_MOST_TITLES = 8
"""So many rows with text may stand above the header."""
_TITLE_CHARS = 64
_MOSTLY = 0.9
_SEPARATED = re.compile(r'"?sep=([,;\t|])"?')


@dataclass(frozen=True)
class Dialect:
    """How a delimited file is written."""

    delimiter: str
    quote: str
    spaced: bool = False
    """Whether blanks stand between a delimiter and the quote that opens the next field."""

    def reader(self, lines: Iterable[str], *, strict: bool) -> Reader:
        """Python's reader of CSV, set accordingly."""
        if not self.quote:
            return csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE, strict=strict)
        return csv.reader(
            lines, delimiter=self.delimiter, quotechar=self.quote, skipinitialspace=self.spaced, strict=strict
        )

    def stands(self, line: str) -> bool:
        """Whether a text is one whole row with every quote where a quote may be; linear in its length."""
        return self._whole_row.fullmatch(line.rstrip("\r\n")) is not None

    @cached_property
    def _whole_row(self) -> re.Pattern[str]:
        between = re.escape(self.delimiter)
        if not self.quote:
            return re.compile(".*+", re.DOTALL)
        quote, blank = re.escape(self.quote), " *+" if self.spaced else ""
        field = rf"{blank}(?:{quote}(?:[^{quote}]|{quote}{quote})*+{quote}|[^{quote}{between}\r\n]*+)"
        return re.compile(rf"{field}(?:{between}{field})*+")


def detect_dialect(text: str, delimiter: str, quote: str, *, whole: bool) -> Dialect:
    """The way of writing that cuts most of a file's first rows into the same number of fields, at least two."""
    sample = text.splitlines(keepends=True)[: _SAMPLE_ROWS + 1]
    if len(sample) > 1 and (not whole or len(sample) > _SAMPLE_ROWS):
        sample = sample[:-1]  # it may end inside a row
    delimiters = DELIMITERS if delimiter == "auto" else (delimiter,)
    mark = '"' if quote == "auto" else quote
    tried = [
        Dialect(entry, mark, spaced)
        for entry in delimiters
        for spaced in ((False, True) if mark and f"{entry} {mark}" in text else (False,))
    ]
    best = max(tried, key=lambda dialect: _score(dialect, sample))
    if quote != "auto":
        return best
    return _without_quotes(best, sample) or _single_quotes(best, sample) or best


def describe_dialect(dialect: Dialect, file: str) -> str:
    """What is said of a way of writing that is not the common one."""
    remarks: list[str] = []
    if dialect.delimiter != ",":
        delimiter = _NAMES.get(dialect.delimiter, dialect.delimiter)
        remarks.append(gettext_noop(f"fields are separated by {delimiter}"))
    if dialect.quote != '"':
        remarks.append(
            gettext_noop(f"fields are enclosed in {dialect.quote}" if dialect.quote else "quotes are part of the text")
        )
    if len(remarks) == 2:
        one, other = remarks
        return gettext_noop(f"{file}: {one} and {other} (seen in its first lines)")
    return gettext_noop(f"{file}: {remarks[0]} (seen in its first lines)") if remarks else ""


def delimiter_from_sep_line(line: str) -> str:
    """The delimiter that Excel's first line `sep=;` names; empty where there is no such line."""
    match = _SEPARATED.fullmatch(line.strip())
    return match[1] if match else ""


def make_columns_unique(columns: Sequence[str], file: str, say: Callable[[str], None]) -> list[str]:
    """Names of columns of which none comes twice: `Comment, Comment` becomes `Comment, Comment 2`, which is said."""
    taken = set(columns)
    name_counts: Counter[str] = Counter()
    found: list[str] = []
    given: dict[str, list[str]] = {}
    for column in columns:
        name, name_counts[column] = column, name_counts[column] + 1
        if name_counts[column] > 1:
            while (name := f"{column} {name_counts[column]}") in taken:
                name_counts[column] += 1
            given.setdefault(column, []).append(name)
        taken.add(name)
        found.append(name)
    for column, names in given.items():
        shown = f"{names[0]!r} to {names[-1]!r}" if len(names) > 2 else " and ".join(map(repr, names))
        say(f"{file}: the header names {column!r} {len(names) + 1} times; the later ones are read as {shown}")
    return found


class TableTitles(NamedTuple):
    """What stands above the header of a table."""

    lines: int
    """Lines of the file, or rows with a value of a sheet, that are no data; 0 where the first one is the header."""
    description: str = ""
    """How they are told: how many they are, and the text of the first."""


def find_table_titles(dialect: Dialect, lines: Sequence[str]) -> TableTitles:
    """What stands above the header: lines of one field, or of as many as the table has, nearly all of them empty."""
    reader = dialect.reader(lines, strict=False)
    rows: list[tuple[list[str], int]] = []
    with suppress(csv.Error):  # what was read before a broken row decides
        rows.extend((row, reader.line_num) for row in islice(reader, _SAMPLE_ROWS))
    widths = [len(row) for row, _ in rows if any(row)]
    width = max(set(widths), key=widths.count, default=0)
    at = count_rows_above_header([row for row, _ in rows])
    below = [len(row) for row, _ in rows[at:] if row]
    many = below.count(width)
    if at == 0 or not below or below[0] != width or many <= at or many < _MOSTLY * len(below):
        return TableTitles(0)
    return TableTitles(rows[at - 1][1], describe_rows_above_header([row for row, _ in rows[:at]], "line"))


def count_rows_above_header(rows: Sequence[Sequence[str]], groups: Collection[int] = ()) -> int:
    """Count the rows above the header: titles, notes and empty rows, with far fewer values than those below.

    None do where the row that would be the header does not look like one: Excel gives a title as many fields as the
    table has, and a first row of data may have empty fields, too. `groups` are places of rows that are known to stand
    above a header.
    """
    filled = [sum(1 for cell in row if cell.strip()) for row in rows]
    usual = sorted(count for count in filled if count > 1)
    enough = max(2, usual[len(usual) // 2] // 2 + 1) if usual else 2
    at = next((index for index, count in enumerate(filled) if count >= enough and index not in groups), 0)
    above, below = [count for count in filled[:at] if count], [count for count in filled[at + 1 :] if count]
    is_table = below and 2 * sum(count > 1 for count in below) >= len(below)
    if not is_table or len(above) > _MOST_TITLES:
        return 0
    return at if any(index < at for index in groups) or _names_columns(rows[at], rows[at + 1 :]) else 0


def describe_rows_above_header(above: Sequence[Sequence[str]], what: str) -> str:
    """How rows above a header are told, with the first text in them."""
    texts = [next(filter(None, map(str.strip, row)), "") for row in above]
    if not any(texts):
        return f"the first {what} is empty" if len(above) == 1 else f"the first {len(above)} {what}s are empty"
    many = len(texts) - next(at for at, text in enumerate(reversed(texts)) if text)
    are = f"the first {what} is a title" if many == 1 else f"the first {many} {what}s are titles"
    return f"{are} above the header, not data: {next(filter(None, texts))[:_TITLE_CHARS]!r}"


def _names_columns(first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    """Whether a row that stands below others names columns: something in it is unlike what stands below it.

    A name comes again nowhere below; and it is shorter than nearly all texts below it, or stands above figures.
    """
    unlike = False
    for index, cell in enumerate(first):
        below = [row[index].strip() for row in rest if index < len(row) and row[index].strip()]
        if not cell.strip() or not below:
            continue
        if cell.strip() in below:
            return False
        longer = sum(len(value) > len(cell.strip()) for value in below)
        figures = sum(value[:1].isdigit() for value in below)
        unlike |= longer >= _MOSTLY * len(below) or (figures >= _MOSTLY * len(below) and cell.strip()[:1].isalpha())
    return unlike


def has_header(rows: Sequence[list[str]]) -> bool:
    """Whether the first row names columns: it does unless it holds numbers above numbers, or values that come again."""
    if len(rows) < 2 or not any(cell.strip() for cell in rows[0]):
        return True
    first, rest = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    if any(len(cell) > _NOT_A_NAME_CHARS for cell in first):  # a text, or the whole question of a form
        return _names_figures(first, rest)
    for index, cell in enumerate(first):
        below = [row[index] for row in rest if row[index].strip()]
        if not below or not cell.strip():
            continue
        if _NUMBER.fullmatch(cell.strip()) and all(_NUMBER.fullmatch(value.strip()) for value in below[:20]):
            return False
        if below.count(cell) > 1 and sum(row == first for row in rest) < below.count(cell):
            return False
    return True


def _names_figures(first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    """Whether a word stands above figures or times: only a name does."""
    if len(rest) < _FEW_ROWS:
        return False
    figures = [all(row[index][:1].isdigit() for row in rest) for index in range(len(first))]
    return any(cell[:1].isalpha() and is_figure for cell, is_figure in zip(first, figures, strict=True))


def _score(dialect: Dialect, sample: Sequence[str]) -> tuple[int, bool, int, bool]:
    """How many rows have the same number of fields, in twentieths (one row says little); whether the first has, too;
    how many fields.

    Mails that begin with `Hello,` and a new line have two fields a line where a comma is taken for a delimiter; the
    names of the columns have one.
    """
    counts = _widths(dialect, sample)
    if not counts:
        return 0, False, 0, False
    width, times = max(Counter(counts).items(), key=lambda found: (found[1], found[0]))
    if width == 1:
        return 0, False, 0, False
    return round(20 * times / len(counts)), counts[0] == width, width, dialect.spaced


def _widths(dialect: Dialect, sample: Iterable[str]) -> list[int]:
    counts: list[int] = []
    try:
        for row in dialect.reader(sample, strict=False):
            if row:
                counts.append(len(row))
    except csv.Error:
        pass  # what was counted before the broken row decides
    return counts


def _without_quotes(best: Dialect, sample: Sequence[str]) -> Dialect | None:
    """No quoting, where many lines with a quote break a row and nearly all lines are whole without."""
    quoted = sum(best.quote in line for line in sample)
    broken = _broken(best, sample)
    if broken < 3 or broken * 4 < quoted:
        return None
    plain = replace(best, quote="", spaced=False)
    counts = Counter(_widths(plain, sample))
    width, times = counts.most_common(1)[0]
    return plain if width > 1 and times * 20 >= 19 * counts.total() else None


def _broken(dialect: Dialect, sample: Iterable[str]) -> int:
    reader, broken = dialect.reader(sample, strict=True), 0
    while True:
        try:
            next(reader)
        except StopIteration:
            return broken
        except csv.Error:
            broken += 1


def _single_quotes(best: Dialect, sample: Sequence[str]) -> Dialect | None:
    """Single quotes, where nearly every line has a field that stands in them, and no fewer lines are whole so."""
    single = replace(best, quote="'")
    between = re.escape(best.delimiter)
    field = re.compile(rf"(?:^|{between})'(?:[^']|'')*+'(?:{between}|\r?\n?$)")
    enclosed = sum(field.search(line) is not None for line in sample[1:])
    if enclosed < 3 or enclosed * 5 < len(sample[1:]) * 4 or _score(single, sample) < _score(best, sample):
        return None
    return single
