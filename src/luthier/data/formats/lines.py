"""Physical lines of a text file, decoded one by one so that a wrong byte is found at its line."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO, NamedTuple

from luthier.core.errors import DataError, Where
from luthier.data.formats import encodings
from luthier.data.formats.file import File

HEAD_BYTES = 1 << 17
LONGEST_BYTES = 16 << 20
"""A line longer than this is refused: it would not fit the memory that a batch may take."""
_CHECK = "check `encoding`; `auto` finds most"


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
    whole: bool
    """Whether that is all of the file."""


def head(file: File, encoding: str = "auto") -> Head:
    """Look at the first bytes: is it text, and in which encoding?"""
    with file.open() as opened:
        data = opened.read(HEAD_BYTES + 1)
    whole = len(data) <= HEAD_BYTES
    found = encodings.find(data[:HEAD_BYTES], encoding, file.name)
    text = encodings.decode_start(data[:HEAD_BYTES], found.name, file.where)
    if not text.strip("\ufeff \t\r\n"):
        raise DataError("is empty", where=file.where, remedy="give a file with at least one row")
    return Head(text, found.name, found.note, whole)


def lines(file: File, first: Head) -> Iterator[str | BadLine]:
    """Every physical line with its end, decoded, or what is wrong with it; memory is bounded by the longest line."""
    with file.open() as opened:
        if encodings.is_wide(first.encoding) or ("\r" in first.text and "\n" not in first.text):
            yield from _as_text(opened, first.encoding, file.where)
            return
        for number, raw in enumerate(iter(partial(opened.readline, LONGEST_BYTES), b"")):
            if len(raw) == LONGEST_BYTES and not raw.endswith(b"\n"):
                _skip_line(opened)
                yield _too_long()
            else:
                yield _line(raw, "utf-8-sig" if number == 0 and first.encoding == "utf-8" else first.encoding)


def _too_long() -> BadLine:
    return BadLine(f"the line is longer than {LONGEST_BYTES >> 20} MiB", "split the row, or give it as Parquet")


def _skip_line(opened: BinaryIO) -> None:
    while (rest := opened.readline(1 << 20)) and not rest.endswith(b"\n"):
        pass


def _line(raw: bytes, encoding: str) -> str | BadLine:
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


def _as_text(opened: BinaryIO, encoding: str, where: Where) -> Iterator[str | BadLine]:
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
        place = Where(file=where.file, line=number + 1)
        raise DataError(f"is not {encoding}: {why}", where=place, remedy=_CHECK) from error
    finally:
        text.detach()
