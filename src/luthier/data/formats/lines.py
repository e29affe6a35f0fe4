"""Lines of a text file and rows of JSON Lines.

Lines are decoded one by one, so an error names the line of an invalid byte.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO, NamedTuple

from luthier.core.errors import DataError, SourceLocation, describe_json_error
from luthier.data.formats import encodings
from luthier.data.formats.files import SourceFile
from luthier.data.row import BrokenRow, SourceRecord

HEAD_BYTES = 1 << 17
LONGEST_BYTES = 16 << 20
"""A line longer than this is refused: it would not fit the memory that a batch may take."""
_CHECK = "check `encoding`; `auto` finds most"


class UndecodableLine(NamedTuple):
    """A line that cannot be decoded; the reader of the format says where."""

    problem: str
    hint: str
    text: str = "\n"
    """The line as far as it can be read, so that quotes still pair."""


class TextHead(NamedTuple):
    """The first bytes of a file and the encoding to read it with."""

    text: str
    encoding: str
    note: str
    """What was decided for the user, when there was something to decide."""
    whole: bool
    """Whether that is all of the file."""


def read_text_head(file: SourceFile, encoding: str = "auto") -> TextHead:
    """Look at the first bytes: is it text, and in which encoding?"""
    with file.open() as opened:
        data = opened.read(HEAD_BYTES + 1)
    whole = len(data) <= HEAD_BYTES
    found = encodings.detect_encoding(data[:HEAD_BYTES], encoding, file.name)
    text = encodings.decode_start(data[:HEAD_BYTES], found.name, file.where)
    if not text.strip("\ufeff \t\r\n"):
        raise DataError("is empty", where=file.where, hint="give a file with at least one row")
    return TextHead(text, found.name, found.note, whole)


def read_text_lines(file: SourceFile, first: TextHead) -> Iterator[str | UndecodableLine]:
    """Every physical line with its end, decoded, or what is wrong with it; memory is bounded by the longest line."""
    with file.open() as opened:
        if encodings.has_multibyte_newline(first.encoding) or ("\r" in first.text and "\n" not in first.text):
            yield from _as_text(opened, first.encoding, file.where)
            return
        for number, raw in enumerate(iter(partial(opened.readline, LONGEST_BYTES), b"")):
            if len(raw) == LONGEST_BYTES and not raw.endswith(b"\n"):
                _skip_line(opened)
                yield _too_long()
            else:
                yield _line(raw, "utf-8-sig" if number == 0 and first.encoding == "utf-8" else first.encoding)


def _too_long() -> UndecodableLine:
    return UndecodableLine(f"the line is longer than {LONGEST_BYTES >> 20} MiB", "split the row, or give it as Parquet")


def _skip_line(opened: BinaryIO) -> None:
    while (rest := opened.readline(1 << 20)) and not rest.endswith(b"\n"):
        pass


def _line(raw: bytes, encoding: str) -> str | UndecodableLine:
    if b"\0" in raw:
        rest = raw.replace(b"\0", b"").decode(encoding, "replace")
        return UndecodableLine("the line holds a NUL byte", "remove it: `tr -d '\\000' < FILE > CLEAN`", rest)
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        odd = raw[error.start]
        hint = "save the file as UTF-8, or set `encoding: cp1252` (what Excel on Windows writes)"
        problem = f"byte 0x{odd:02x} at position {error.start + 1} of the line is not {encoding}"
        return UndecodableLine(problem, hint, raw.decode(encoding, "replace"))


def _as_text(opened: BinaryIO, encoding: str, where: SourceLocation) -> Iterator[str | UndecodableLine]:
    """UTF-16, UTF-32 and files with the line ends of old Macs: the whole is decoded as a stream."""
    text = io.TextIOWrapper(opened, encoding=encoding, newline=None)
    number = 0
    try:
        while line := text.readline(LONGEST_BYTES):
            number += 1
            if len(line) < LONGEST_BYTES or line.endswith("\n"):
                yield line
                continue
            while (rest := text.readline(1 << 20)) and not rest.endswith("\n"):
                pass
            yield _too_long()
    except UnicodeError as error:
        why = error.reason if isinstance(error, UnicodeDecodeError) else "it has no byte order mark"
        location = SourceLocation(file=where.file, line=number + 1)
        raise DataError(f"is not {encoding}: {why}", where=location, hint=_CHECK) from error
    finally:
        text.detach()


def read_jsonl_rows(
    file: SourceFile, *, encoding: str = "auto", say: Callable[[str], None] = lambda text: None
) -> Iterator[SourceRecord | BrokenRow]:
    """Objects of a JSONL file; a line that is not one is yielded as broken."""
    first = read_text_head(file, encoding)
    if first.text.lstrip("\ufeff \t\r\n").startswith("["):
        location, hint = SourceLocation(file=file.name, line=1), "use `kind: json`"
        raise DataError("holds one JSON array; one object a line is wanted", where=location, hint=hint)
    if first.note:
        say(first.note)
    for number, line in enumerate(read_text_lines(file, first), start=1):
        if isinstance(line, UndecodableLine):
            yield BrokenRow(file.name, number, line.problem, hint=line.hint)
        elif not line.isspace():
            yield parse_jsonl_record(line, file.name, number)


def parse_jsonl_record(text: str, name: str, number: int) -> SourceRecord | BrokenRow:
    """The row that is written as one JSON object."""
    try:
        value = parse_json(text)
    except ValueError as error:
        return BrokenRow(name, number, str(error))
    if not isinstance(value, dict):
        return BrokenRow(name, number, f"expected a JSON object, got {json_type_name(value)}")
    return SourceRecord(value, name, number)


def parse_json(text: str) -> Any:
    """A JSON value that can be written again as UTF-8; `ValueError` says in one sentence what is wrong."""
    try:
        value = DECODER.decode(text.lstrip("\ufeff"))
        refuse_lone_surrogates(text, value)
    except json.JSONDecodeError as error:
        raise ValueError(describe_json_error(error, column=True)) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(describe_unusable_json(error)) from error
    return value


def describe_unusable_json(error: Exception) -> str:
    """What is wrong with text that is JSON, and cannot be used."""
    if isinstance(error, UnicodeEncodeError):
        return "holds half of a surrogate pair (\\ud800 to \\udfff), which is not text"
    what = "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]
    return f"is not JSON that can be used: {what}"


def refuse_lone_surrogates(text: str, value: Any) -> None:
    """Half a surrogate pair cannot be written as UTF-8: `UnicodeEncodeError`."""
    if "\\u" in text:
        text.encode()
        json.dumps(value, ensure_ascii=False).encode()


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is too large for a number")
    return value


DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def json_type_name(value: Any) -> str:
    """What a JSON value is, for messages."""
    kinds = {list: "an array", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")
