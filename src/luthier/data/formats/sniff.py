"""Sniff the format of a file from its first bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from luthier.core.errors import DataError, SourceLocation
from luthier.data.formats import archives, encodings
from luthier.data.formats.files import SourceFile
from luthier.data.formats.lines import HEAD_BYTES


class FormatMatch(IntEnum):
    """How confidently a file is recognized as a kind of source, from `NO` to `EXACT`."""

    NO = 0
    POSSIBLE = 10
    LIKELY = 20
    CERTAIN = 100
    EXACT = 200
    """Of a format that others read, too, the very use that the kind is made for."""


_ARCHIVES = (b"PK\x03\x04", b"7z\xbc\xaf\x27\x1c", b"Rar!")
ENDING = 15
"""What a fitting ending adds."""
_DECLARATION = re.compile(r"<(?:[?!]|html(?:\s[^<>]*)?>(?![^\S\n]*[,;\t|]))", re.IGNORECASE)
"""How a page or an XML document declares itself; `<html>,label` is the header of a table."""
_ELEMENT = re.compile(r"<([a-z][\w:.-]*)(?:\s[^<>]*)?/?>", re.IGNORECASE)


@dataclass(frozen=True)
class FileSample:
    """A file's name, its first bytes unpacked, and the names inside when it is a zip or a folder."""

    name: str
    ending: str
    data: bytes
    members: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    """Of a folder, the first files below it, however deep."""

    @classmethod
    def at(cls, file: SourceFile) -> FileSample:
        """Look at a file."""
        with file.open() as opened:
            data = opened.read(HEAD_BYTES)
        members: tuple[str, ...] = ()
        if data.startswith(b"PK\x03\x04"):
            with _zip(file) as raw, archives.open_zip_archive(raw, file.name) as archive:
                members = tuple(archive.namelist())
        return cls(PurePosixPath(file.member).name or file.path.name, file.ending, data, members)

    @property
    def is_archive(self) -> bool:
        """Whether it holds files: a zip, 7z, rar or tar."""
        return self.data.startswith(_ARCHIVES) or self.data[257:262] == b"ustar"

    @cached_property
    def text(self) -> str:
        """The first bytes as text; empty for what is none."""
        try:
            return encodings.decode_start(self.data, encodings.detect_encoding(self.data, "auto", "").name, _NOWHERE)
        except DataError:
            return ""

    @cached_property
    def start(self) -> str:
        """The text from its first character that isn't blank."""
        return self.text.lstrip("\ufeff \t\r\n")

    @cached_property
    def declares_markup(self) -> bool:
        """Whether it declares itself HTML or XML: by `<?xml`, a doctype, a comment or `<html>`."""
        return _DECLARATION.match(self.start) is not None

    @cached_property
    def is_markup(self) -> bool:
        """Whether it is HTML or XML: declared, or an element that is closed or whose lines begin with tags.

        A first cell that looks like a tag does not make a table markup.
        """
        if self.declares_markup or (element := _ELEMENT.match(self.start)) is None:
            return self.declares_markup
        lines = [line for line in map(str.strip, self.start.splitlines()) if line]
        tags = sum(line.startswith("<") for line in lines)
        return 2 * tags > len(lines) or f"</{element[1].lower()}" in self.start.lower()

    @cached_property
    def first_object(self) -> dict[str, Any] | None:
        """The object that the first line is, for JSON lines."""
        line, newline, _ = self.start.partition("\n")
        try:
            value = json.loads(line) if newline or len(self.data) < HEAD_BYTES else None
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    @cached_property
    def first_objects(self) -> list[dict[str, Any]]:
        """The first objects of JSON lines or of an array, as far as the first bytes hold them whole."""
        if self.start.startswith("{"):
            return [] if self.first_object is None else _objects(self.start, "\n")
        return _objects(self.start[1:], ",") if self.start.startswith("[") else []

    @property
    def names(self) -> frozenset[str]:
        """The names inside, without folders."""
        return frozenset(PurePosixPath(name).name for name in self.members)


@contextmanager
def _zip(file: SourceFile) -> Iterator[BinaryIO]:
    """A document that is a zip inside, such that one can seek in it."""
    if not file.packing:
        with file.raw() as raw:
            yield raw
        return
    with file.local() as path, path.open("rb") as copy:
        yield copy


_MOST_OBJECTS = 20


def _objects(text: str, between: str) -> list[dict[str, Any]]:
    """Objects one after the other; what the end of the text cuts off is left out."""
    found: list[dict[str, Any]] = []
    at = 0
    while len(found) < _MOST_OBJECTS:
        at += len(text[at:]) - len(text[at:].lstrip(f"{between} \t\r\n"))
        try:
            value, at = json.JSONDecoder().raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        if not isinstance(value, dict):
            break
        found.append(value)
    return found


_NOWHERE = SourceLocation(file="")
