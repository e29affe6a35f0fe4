"""Physical lines of a text file, decoded one by one so that a wrong byte is found at its line."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from luthier.core.errors import DataError, Where

HEAD_BYTES = 1 << 16
LONGEST_BYTES = 64 << 20
"""A line longer than this is refused: it would not fit the memory that a batch may take."""
_WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class BadLine(NamedTuple):
    """A line that cannot be decoded; the reader of the format says where."""

    problem: str
    remedy: str
    text: str = "\n"
    """The line as far as it can be read, so that quotes still pair."""


class Head(NamedTuple):
    """The first bytes of a file and the encoding to read it with."""

    text: str
    encoding: str
    note: str
    """What was decided for the user, when there was something to decide."""


def open_file(path: Path, name: str) -> BinaryIO:
    """Open a file for reading bytes; a `DataError` names it as the recipe does."""
    where = Where(file=name)
    try:
        if path.is_dir():
            remedy = "name one file, or use the source `folder` to read all files of a folder"
            raise DataError("is a folder, not a file", where=where, remedy=remedy)
        if path.exists() and not path.is_file():
            raise DataError("is a pipe or a device, not a file", where=where, remedy="save its rows as a file first")
        return path.open("rb")
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=where, remedy=_no_file_remedy(path, name)) from error
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        remedy = "check `path`, and give yourself the right to read it"
        raise DataError(f"cannot be read: {what}", where=where, remedy=remedy) from error


def _no_file_remedy(path: Path, name: str) -> str:
    if near := _near(path):
        return f"did you mean {near!r}?"
    if "$" in name:
        return "check the path and what the environment variable in it says"
    return "check `path`; relative paths start at the recipe's folder"


def _near(path: Path) -> str | None:
    from difflib import get_close_matches

    try:
        names = [found.name for found in path.parent.iterdir() if found.is_file()]
    except OSError:
        return None
    return next(iter(get_close_matches(path.name, names, n=1, cutoff=0.6)), None)


def head(path: Path, name: str, encoding: str = "auto") -> Head:
    """Look at the first bytes: is it text, and in which encoding?"""
    with open_file(path, name) as file:
        data = file.read(HEAD_BYTES)
    where = Where(file=name)
    if not data.strip(codecs.BOM_UTF8 + b" \t\r\n"):
        raise DataError("is empty", where=where, remedy="give a file with at least one row")
    if encoding != "auto":
        return Head(_decode_head(data, encoding, where), encoding, "")
    for mark, wide in _WIDE_MARKS.items():
        if data.startswith(mark):
            remedy = f"save it as UTF-8, or set `encoding: {wide}`"
            raise DataError(f"is {wide.upper()} text; UTF-8 is wanted", where=where, remedy=remedy)
    if _is_binary(data):
        raise DataError("is not a text file (it holds binary bytes)", where=where, remedy=_binary_remedy(data))
    if data.startswith(codecs.BOM_UTF8):
        return Head(_decode_head(data, "utf-8-sig", where), "utf-8-sig", "")
    return Head(data.decode("utf-8", "replace"), "utf-8", "")


def _is_binary(data: bytes) -> bool:
    """Known beginnings, many NULs, or control characters in what is not UTF-8; a stray one is its row's affair."""
    if data.startswith((b"PK\x03\x04", b"\x1f\x8b", b"PAR1", b"%PDF", b"\x89PNG")) or data.count(0) * 20 > len(data):
        return True
    odd = sum(data.count(code) for code in range(9))
    return odd * 100 > len(data) and not _is_utf8(data)


def _is_utf8(data: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return True


def _binary_remedy(data: bytes) -> str:
    if data.startswith(b"PAR1"):
        return "this is a Parquet file: use `kind: parquet`"
    if data.startswith(b"PK\x03\x04"):
        return "this is a zip archive or a spreadsheet: unpack it, or save the sheet as CSV"
    if data.startswith(b"\x1f\x8b"):
        return "this is a gzip archive: unpack it first"
    if data[1:2] == b"\0" or data[:1] == b"\0":
        return "it looks like UTF-16 without a mark: save it as UTF-8, or set `encoding: utf-16-le` (or -be)"
    return "give a CSV, JSONL or Parquet file"


def _decode_head(data: bytes, encoding: str, where: Where) -> str:
    try:
        return codecs.getincrementaldecoder(encoding)("replace").decode(data)
    except UnicodeError as error:
        remedy = "check `encoding`; `auto` finds most"
        raise DataError(f"is not {encoding}: it has no byte order mark", where=where, remedy=remedy) from error
    except LookupError as error:
        remedy = "use a name that Python knows, such as utf-8, utf-16, cp1252 or latin-1"
        raise DataError(
            f"encoding {encoding!r} is unknown", where=Where(file=where.file, field="encoding"), remedy=remedy
        ) from error


def lines(path: Path, name: str, encoding: str) -> Iterator[str | BadLine]:
    """Every physical line with its end, decoded, or what is wrong with it; memory is bounded by the longest line."""
    with open_file(path, name) as file:
        if encoding.replace("_", "-").lower() in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
            yield from _wide_lines(file, encoding, name)
            return
        for number, raw in enumerate(iter(partial(file.readline, LONGEST_BYTES), b"")):
            yield _line(raw, "utf-8-sig" if number == 0 and encoding == "utf-8" else encoding)


def _line(raw: bytes, encoding: str) -> str | BadLine:
    if len(raw) == LONGEST_BYTES:
        return BadLine(f"the line is longer than {LONGEST_BYTES >> 20} MiB", "split the row, or give it as Parquet")
    if b"\0" in raw:
        rest = raw.replace(b"\0", b"").decode(encoding, "replace")
        return BadLine("the line holds a NUL byte", "remove it: `tr -d '\\000' < FILE > CLEAN`", rest)
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        odd = raw[error.start]
        remedy = "save the file as UTF-8, or set `encoding: cp1252` (what Excel on Windows writes)"
        problem = f"byte 0x{odd:02x} at position {error.start + 1} of the line is not {encoding}"
        return BadLine(problem, remedy, raw.decode(encoding, "replace"))


def _wide_lines(file: BinaryIO, encoding: str, name: str) -> Iterator[str | BadLine]:
    """UTF-16 and UTF-32: a newline is several bytes, so the whole is decoded as a stream."""
    reader = codecs.getreader(encoding)(file)
    number = 0
    try:
        while line := reader.readline(keepends=True):
            number += 1
            yield line
    except UnicodeError as error:
        where = Where(file=name, line=number + 1)
        why = error.reason if isinstance(error, UnicodeDecodeError) else "it has no byte order mark"
        remedy = "check `encoding`; `auto` finds most"
        raise DataError(f"is not {encoding}: {why}", where=where, remedy=remedy) from error
