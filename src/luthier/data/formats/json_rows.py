"""Rows of JSON files: an array of objects, an object that holds such an array, or concatenated objects.

The longest element that is read bounds the memory. An element that is broken or too long is reported with its first
line, and reading continues after its closing brace. Columns of nested objects have dotted names.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from luthier.core.errors import DataError, SourceLocation, describe_json_error
from luthier.data.formats.files import SourceFile
from luthier.data.formats.lines import (
    DECODER,
    LONGEST_BYTES,
    describe_unusable_json,
    json_type_name,
    read_text_head,
    refuse_lone_surrogates,
)
from luthier.data.row import BrokenRow, SourceRecord

_CHUNK_BYTES = 1 << 16
_TOKENS = re.compile(r'["\\{}\[\]]')
_BLANK = " \t\r\n"
CONVERSATIONS = frozenset({"messages", "conversations", "conversation", "turns"})
"""Arrays by these names are one conversation: the object that holds one is a row itself."""


def read_json_rows(
    file: SourceFile, *, encoding: str = "auto", rows: str | None = None, say: Callable[[str], None] = lambda text: None
) -> Iterator[SourceRecord | BrokenRow]:
    """The objects of a JSON file; `rows` names the member that holds them when the file is an object."""
    first = read_text_head(file, encoding)
    if first.note:
        say(first.note)
    with file.open() as opened:
        text = _Text(opened, first.encoding)
        try:
            yield from _rows(text, file.name, rows, say)
        except _LostError as lost:
            hint = "mend the file, or set `on_error: drop` to use what stands before"
            yield BrokenRow(file.name, text.line, f"{lost}; from here on the file cannot be read", hint=hint)


class _LostError(Exception):
    """Where a value ends cannot be told any more."""


class _LongError(_LostError):
    """A value does not fit the memory that a row may take."""


def _rows(text: _Text, name: str, rows: str | None, say: Callable[[str], None]) -> Iterator[SourceRecord | BrokenRow]:
    begin, empty = text.peek(), True
    if begin not in ("[", "{"):
        location, hint = SourceLocation(file=name, line=text.line), "check `kind`, or leave it to `luthier new --from`"
        raise DataError("is not JSON: an array or an object is wanted", where=location, hint=hint)
    for row in _array(text, name) if begin == "[" else _Members(text, name, rows, say).rows():
        empty = False
        yield row
    while text.peek() == "{":
        yield _element(text, name)
    if text.peek():
        raise _LostError("is not JSON: there is more behind its end")
    if empty:
        raise DataError("holds no rows", where=SourceLocation(file=name), hint="give a file with at least one row")


class _Brackets:
    """How deep in a value a text is, told from its brackets and strings alone."""

    def __init__(self, at: int) -> None:
        self.at = at
        """Where to look on."""
        self._depth, self._quoted = 0, False

    def end(self, text: str) -> int | None:
        """Where the value closes; None when it doesn't yet, and more text may be given."""
        while match := _TOKENS.search(text, self.at):
            self.at = match.end()
            mark = match[0]
            if mark == "\\":
                self.at += 1
            elif mark == '"':
                self._quoted = not self._quoted
            elif not self._quoted:
                self._depth += 1 if mark in "{[" else -1
                if self._depth <= 0:
                    return self.at
        return None


class _Text:
    """A window on a text that is read forward; knows its line."""

    def __init__(self, opened: BinaryIO, encoding: str) -> None:
        self._opened = opened
        self._decode = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
        self._window = ""
        self._at = 0
        self._ended = False
        self.line = 1

    def peek(self) -> str:
        """The next character that isn't blank, not taken; nothing at the end."""
        while True:
            while self._at < len(self._window):
                char = self._window[self._at]
                if char not in _BLANK and char != "\ufeff":
                    return char
                self._take(self._at + 1)
            if not self._more():
                return ""

    def skip(self, expected: str) -> None:
        """Take a character that must come."""
        if (came := self.peek()) != expected:
            raise _LostError(f"is not JSON: expected {expected!r}, got {repr(came) if came else 'the end of the file'}")
        self._take(self._at + 1)

    def opens_rows(self) -> bool:
        """Whether an array of objects comes next."""
        while self.peek() == "[":
            inside = self._window[self._at + 1 :].lstrip(_BLANK)
            if inside or not self._more():
                return inside.startswith("{")
        return False

    def value(self) -> tuple[Any, str]:
        """The next value, and why it cannot be used (nothing when it can)."""
        begin = self.peek()
        try:
            return self._next()
        except _LongError as error:
            if begin not in ("{", "["):
                raise
            self._pass_over()
            return None, str(error)

    def _next(self) -> tuple[Any, str]:
        while True:
            try:
                value, end = DECODER.raw_decode(self._window, self._at)
                refuse_lone_surrogates(self._window[self._at : end], value)
            except (json.JSONDecodeError, RecursionError, ValueError) as error:
                if self._is_cut(error) and self._more():
                    continue
                problem = _problem(error)
                self._skip_broken()
                return None, problem
            if end == len(self._window) and self._more():
                continue  # a number may go on
            self._take(end)
            return value, ""

    def _is_cut(self, error: Exception) -> bool:
        """Whether an error may come of the window's end."""
        return not self._ended and (not isinstance(error, json.JSONDecodeError) or self._open_end() is None)

    def _open_end(self) -> int | None:
        """Where the value at hand closes; None when it doesn't yet."""
        return _Brackets(self._at).end(self._window)

    def _pass_over(self) -> None:
        """Go behind the closing brace of the value at hand without keeping it."""
        brackets = _Brackets(self._at)
        while (end := brackets.end(self._window)) is None:
            brackets.at = max(0, brackets.at - len(self._window))
            self._take(len(self._window))
            if not self._more():
                raise _LostError("is not JSON: the file ends within an element")
        self._take(end)

    def _skip_broken(self) -> None:
        end = self._open_end()
        while end is None and self._more():
            end = self._open_end()
        self._take(len(self._window) if end is None else end)

    def _take(self, end: int) -> None:
        self.line += self._window.count("\n", self._at, end)
        self._at = end

    def _more(self) -> bool:
        """Read on; each time twice as much, so that a long value is looked at a few times only."""
        if self._ended:
            return False
        kept = len(self._window) - self._at
        if kept > LONGEST_BYTES:
            raise _LongError(f"an element is longer than {LONGEST_BYTES >> 20} MiB")
        data = self._opened.read(max(_CHUNK_BYTES, kept))
        self._ended = not data
        try:
            more = self._decode.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            self.line += self._window.count("\n", self._at)
            odd = error.object[error.start]
            raise _LostError(f"byte 0x{odd:02x} here or in a later line is not {error.encoding}") from error
        self._window = self._window[self._at :] + more
        self._at = 0
        return bool(more) or not self._ended


def _problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return describe_json_error(error)
    return describe_unusable_json(error)


def _array(text: _Text, name: str) -> Iterator[SourceRecord | BrokenRow]:
    text.skip("[")
    while text.peek() not in ("]", ""):
        yield _element(text, name)
        if text.peek() not in ("]", "{"):
            text.skip(",")
    text.skip("]")


def _element(text: _Text, name: str) -> SourceRecord | BrokenRow:
    text.peek()
    line = text.line
    value, problem = text.value()
    if not problem and not isinstance(value, dict):
        problem = f"expected a JSON object, got {json_type_name(value)}"
    return BrokenRow(name, line, problem) if problem else SourceRecord(value, name, line)


class _Members:
    """The objects of the array that one member of an object holds; without such an array, the object is the one row."""

    def __init__(self, text: _Text, name: str, member_name: str | None, say: Callable[[str], None]) -> None:
        """`wanted` may name an array that lies deeper (`data.tickets`); None: the only one."""
        self._text = text
        self._name = name
        self._wanted = member_name
        self._say = say
        self._own: dict[str, Any] = {}
        self._used: str | None = None

    def rows(self) -> Iterator[SourceRecord | BrokenRow]:
        """Yield the rows, then say which array they are."""
        yield from self._object("")
        if self._used is not None:
            left = f"; left out: {', '.join(self._own)}" if self._own else ""
            self._say(f"{self._name}: rows are the array {self._used!r}{left}")
        elif self._wanted is not None:
            where, hint = SourceLocation(file=self._name, field="rows"), f"it holds {', '.join(self._own)}"
            raise DataError(f"holds no array {self._wanted!r}", where=where, hint=hint)
        else:
            yield SourceRecord(self._own, self._name, 1)

    def _object(self, before: str) -> Iterator[SourceRecord | BrokenRow]:
        """Read one object; `before` is the way to it."""
        text = self._text
        text.skip("{")
        while text.peek() not in ("}", ""):
            line = text.line
            key, problem = text.value()
            if problem or not isinstance(key, str):
                raise _LostError(problem or "is not JSON: a name is wanted")
            text.skip(":")
            yield from self._member(before + key, line)
            if text.peek() != "}":
                text.skip(",")
        text.skip("}")

    def _member(self, key: str, line: int) -> Iterator[SourceRecord | BrokenRow]:
        member_name = self._wanted
        if key == member_name or (member_name is None and key not in CONVERSATIONS and self._text.opens_rows()):
            self._use(key, line)
            yield from _array(self._text, self._name)
        elif member_name is not None and member_name.startswith(f"{key}.") and self._text.peek() == "{":
            yield from self._object(f"{key}.")
        else:
            self._own[key], problem = self._text.value()
            if problem:
                raise _LostError(problem)

    def _use(self, key: str, line: int) -> None:
        if self._used is not None:
            where, hint = SourceLocation(file=self._name, line=line), f"set `rows: {self._used}` or `rows: {key}`"
            raise DataError(f"holds two arrays, {self._used!r} and {key!r}", where=where, hint=hint)
        self._used = key


LEAST_ROWS = 2
"""An array of fewer objects is no table."""
_TURN = frozenset({"role", "from", "content", "value"})
"""What the turns of a conversation hold, which are no rows."""


_INSTANCES = "instances"
"""The column in which Self-Instruct keeps what a task was tried with: a list of objects with `input` and `output`."""


def flatten_rows(found: Iterator[SourceRecord | BrokenRow]) -> Iterator[SourceRecord | BrokenRow]:
    """Every row with `{"question": {"text": …}}` as the column `question.text`; lists stay as they are, but that a
    task of Self-Instruct is a row for each of its instances."""
    for entry in found:
        if isinstance(entry, BrokenRow):
            yield entry
        elif _is_task(entry.values):
            yield from (
                _flat(entry._replace(values={**entry.values, _INSTANCES: each})) for each in entry.values[_INSTANCES]
            )
        else:
            yield _flat(entry)


def _flat(one: SourceRecord) -> SourceRecord | BrokenRow:
    leaves = list(_leaves(one.values, ""))
    values = dict(leaves)
    if len(values) == len(leaves):
        return one._replace(values=values)
    names = [name for name, _ in leaves]
    twice = next(name for name in names if names.count(name) > 1)
    return BrokenRow(one.file, one.line, "two values have this name", twice, "set `flatten: false`", one.key)


def _is_task(row: dict[str, Any]) -> bool:
    """Whether it is a task of Self-Instruct."""
    found = row.get(_INSTANCES)
    tried = (
        isinstance(found, list)
        and bool(found)
        and all(isinstance(entry, dict) and "output" in entry for entry in found)
    )
    return tried and "instruction" in row


def _leaves(value: dict[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, f"{before}{name}.")
        else:
            yield f"{before}{name}", inner


def has_nested_texts(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether sentences stand only in objects inside of the rows, or the rows are tasks of Self-Instruct."""
    if rows and all(map(_is_task, rows)):
        return True
    return any(map(_has_sentence, (dict(_leaves(row, "")) for row in rows))) and not any(map(_has_sentence, rows))


def _has_sentence(row: dict[str, Any]) -> bool:
    return any(map(_speaks, row.values()))


def _speaks(value: Any) -> bool:
    """Whether a value holds a sentence or the turns of a conversation; a list of tags or of names does not."""
    if isinstance(value, list):
        return any(isinstance(entry, dict) and (not _TURN.isdisjoint(entry) or _has_sentence(entry)) for entry in value)
    return isinstance(value, str) and " " in value.strip()


def find_inner_array(row: dict[str, Any], aside: frozenset[str]) -> str | None:
    """The dotted name of the one array of objects inside of an object that is itself no row."""
    if _has_sentence(row):
        return None
    found = [
        (name, value)
        for name, value in _leaves(row, "")
        if isinstance(value, list) and len(value) >= LEAST_ROWS and all(isinstance(entry, dict) for entry in value)
    ]
    if len(found) != 1:
        return None
    (name, value), *_ = found
    is_talk = name.rpartition(".")[2] in aside and not _TURN.isdisjoint(value[0])
    return None if is_talk else name


def find_rows_keyed_by_name(row: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The objects that an object holds by their names, where they are rows of one table, and the name of the object
    that holds them; empty for the row itself."""
    inner = {name: value for name, value in row.items() if isinstance(value, dict)}
    for name, named in (("", row), *inner.items()):
        rows = list(named.values())
        if len(rows) > LEAST_ROWS and all(map(_is_row, rows)) and set.intersection(*map(set, rows)):
            return name, named
    return None


def _is_row(value: Any) -> bool:
    """Whether an object says something, and holds no table."""
    if not isinstance(value, dict) or not _has_sentence(value):
        return False
    tables = (entry for entry in value.values() if isinstance(entry, list) and entry and isinstance(entry[0], dict))
    return not any(_TURN.isdisjoint(table[0]) for table in tables)


def is_columnar_object(row: dict[str, Any]) -> bool:
    """Whether an object is a table by its columns: a list, or an object by numbers, of as many values in each."""
    if {"columns", "data"} <= set(row) <= {"columns", "data", "index", "schema"}:
        return True
    values = list(row.values())
    if not all(isinstance(value, list) for value in values) and not all(isinstance(value, dict) for value in values):
        return False
    columns = [set(value) if isinstance(value, dict) else set(range(len(value))) for value in values]
    if len(values) < LEAST_ROWS or len(columns[0]) <= LEAST_ROWS or any(column != columns[0] for column in columns):
        return False
    cells = (cell for value in values for cell in (value.values() if isinstance(value, dict) else value))
    return not any(isinstance(cell, dict) for cell in cells)
