"""Detect the encoding of a text file: as given, from its byte order mark, or from its bytes."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from luthier.core.errors import DataError, SourceLocation

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OTHER_LETTERS = (
    "cp932", "euc_jis_2004", "cp949", "gb18030", "big5", "cp1251", "koi8_r", "koi8_u", "cp1253", "cp1255", "cp1256",
    "cp874",
)  # fmt: skip
_LATIN_LETTERS = ("cp1252", "cp1250", "cp1254", "cp1257", "iso8859_2")
"""Encodings that tables and texts come in beside Unicode: Western, Central European, Turkish, Baltic."""
_LATIN_END = 0x024F
"""The last of Unicode's Latin letters that Europe's languages are written in."""
_HEARD_LINES = 50
_SURE_BYTES = 24
"""Told from fewer bytes, an encoding is a guess."""
_WESTERN_LEAD = 1.25
"""What Western letters count for more where it is a guess: most files with few letters outside ASCII are Western."""
_BINARY = {
    b"PAR1": "this is a Parquet file: use `kind: parquet`",
    b"ARROW1": "this is an Arrow file: use `kind: arrow`",
    b"PK\x03\x04": "a spreadsheet, a document or a zip: use `kind: excel` or `kind: docx`, or unpack it",
    b"\xd0\xcf\x11\xe0": "this is an Office file: use `kind: excel`, or save it as CSV",
    b"%PDF": "this is a PDF: use `kind: pdf`",
}
_ODD = frozenset(range(9))
"""Control characters that text does not hold."""


class Encoding(NamedTuple):
    """A codec's name, and what is said about the choice."""

    name: str
    note: str = ""


def detect_encoding(data: bytes, requested: str, file: str) -> Encoding:
    """The encoding of a file that begins with these bytes."""
    if requested != "auto":
        return Encoding(requested)
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            return Encoding(name, "" if name == "utf-8-sig" else f"{file}: read as {name.upper()} (its mark says so)")
    if wide := _wide(data):
        return Encoding(wide, f"{file}: read as {wide.upper()} (every second byte is nothing); set `encoding` if not")
    if hint_for_binary(data) is not None:
        hint = hint_for_binary(data) or "give a CSV, JSONL or Parquet file"
        raise DataError("is not a text file (it holds binary bytes)", where=SourceLocation(file=file), hint=hint)
    return _detect(data, file)


def has_multibyte_newline(name: str) -> bool:
    """Whether a newline takes several bytes."""
    return name.replace("_", "-").lower().startswith(("utf-16", "utf-32"))


def decode_start(data: bytes, encoding: str, where: SourceLocation) -> str:
    """The beginning of a file as text; a character that the end cuts is left out."""
    try:
        return codecs.getincrementaldecoder(encoding)("replace").decode(data)
    except UnicodeError as error:
        hint = "check `encoding`; `auto` finds most"
        raise DataError(f"is not {encoding}: it has no byte order mark", where=where, hint=hint) from error
    except LookupError as error:
        known = (
            "cp1252 (Western), cp1250, cp1251 or koi8_r (Cyrillic), cp1255 (Hebrew), cp932 (Japanese), cp949 (Korean)"
        )
        hint = f"use a name that Python knows, such as utf-8, utf-16, {known}, gb18030 (Chinese), …"
        location = SourceLocation(file=where.file, field="encoding")
        raise DataError(f"encoding {encoding!r} is unknown", where=location, hint=hint) from error


def hint_for_binary(data: bytes) -> str | None:
    """What to do with bytes that are no text (it may be nothing); None for text. A stray NUL is its row's affair."""
    for mark, hint in _BINARY.items():
        if data.startswith(mark):
            return hint
    if data.startswith((b"\x1f\x8b", b"\x89PNG", b"\xff\xd8\xff")) or data.count(0) * 20 > len(data):
        return ""
    odd = sum(data.count(code) for code in _ODD)
    return "" if odd * 100 > len(data) and not is_utf8(data) else None


def is_utf8(data: bytes) -> bool:
    """Whether bytes are UTF-8, up to a character that their end may cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return True


def _wide(data: bytes) -> str:
    """UTF-16 without a mark: nearly every second byte is zero, and the others are not."""
    pairs = len(data) // 2
    if pairs < 4:
        return ""
    even, odd = data[: 2 * pairs : 2].count(0), data[1 : 2 * pairs : 2].count(0)
    if odd * 4 > pairs * 3 and even * 50 < pairs:
        return "utf-16-le"
    return "utf-16-be" if even * 4 > pairs * 3 and odd * 50 < pairs else ""


def _detect(data: bytes, file: str) -> Encoding:
    """UTF-8 unless most of the lines outside ASCII are something else."""
    if is_utf8(data):
        return Encoding("utf-8")
    foreign = [line for line in data.split(b"\n")[:-1] or [data] if not line.isascii()]
    if 2 * sum(map(_is_utf8_line, foreign)) >= len(foreign):
        return Encoding("utf-8")
    return _other(foreign, file)


def _is_utf8_line(line: bytes) -> bool:
    """Whether a whole line is UTF-8: nothing cuts a letter at its end."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _other(foreign: list[bytes], file: str) -> Encoding:
    """An encoding before Unicode, told from the lines outside ASCII."""
    data = b"\n".join(foreign)
    name = _likeliest(data, (*_OTHER_LETTERS, *_LATIN_LETTERS))
    if name in _LATIN_LETTERS or _mixes_letters(data.decode(name, "replace")):
        name = _detect_latin(foreign[:_HEARD_LINES])
    high = _high(data)
    how = "detected, because the file is not UTF-8; set `encoding` if letters look wrong"
    if high < _SURE_BYTES:
        how = f"guessed from {high} bytes that are not UTF-8; look at the letters, and set `encoding` if they are wrong"
    return Encoding(name, f"{file}: read as {name} ({how})")


def _high(data: bytes) -> int:
    return sum(byte >= 0x80 for byte in data)


def _likeliest(data: bytes, among: Sequence[str]) -> str:
    import chardet

    detected = chardet.detect(data, include_encodings=among, compat_names=False)["encoding"]
    return str(detected).replace("-", "_") if detected else _LATIN_LETTERS[0]


def _detect_latin(lines: Sequence[bytes]) -> str:
    """The encoding with Latin letters that most lines speak for: each may be in another language.

    It is Western where the letters are the same in both, or where few letters speak for another.
    """
    import chardet

    western = _LATIN_LETTERS[0]
    data = b"\n".join(lines)
    votes = {name: 0.0 for name in _LATIN_LETTERS if name == western or _is_text(data, name)}
    for line in lines:
        for entry in chardet.detect_all(line, True, include_encodings=list(votes), compat_names=False):
            if entry["encoding"] is not None:
                votes[str(entry["encoding"]).replace("-", "_")] += entry["confidence"]
    if _high(data) < _SURE_BYTES:
        votes[western] *= _WESTERN_LEAD
    name = max(votes, key=lambda name: (votes[name], -_LATIN_LETTERS.index(name)))
    return western if data.decode(name, "replace") == data.decode(western, "replace") else name


def _is_text(data: bytes, encoding: str) -> bool:
    """Whether every byte stands for a sign, and none for a control character that no text holds."""
    try:
        return not any(0x80 <= ord(sign) < 0xA0 for sign in data.decode(encoding))
    except UnicodeDecodeError:
        return False


def _mixes_letters(text: str) -> bool:
    """Whether letters that are not Latin stand beside Latin ones, or alone, rather than in words of their own.

    That is the sign of a wrong guess. A brand's name before a Korean ending, or in a Japanese sentence, is none.
    """
    mixed = own = 0
    for entry, other in pairwise(text):
        if entry.isalpha() and other.isalpha() and ord(max(entry, other)) > _LATIN_END:
            mixed += entry.isascii() != other.isascii()
            own += min(ord(entry), ord(other)) > _LATIN_END
    return own <= mixed
