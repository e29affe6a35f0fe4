"""Which encoding a text file is in: asked for, marked by its first bytes, or told from them."""

from __future__ import annotations

import codecs
from itertools import pairwise
from typing import NamedTuple

from luthier.core.errors import DataError, Where

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_WESTERN_SHARE = 0.2
"""Where fewer of the letters than this lie outside ASCII, a file that is not UTF-8 is taken as Western European."""
_BINARY = {
    b"PAR1": "this is a Parquet file: use `kind: parquet`",
    b"ARROW1": "this is an Arrow file: use `kind: arrow`",
    b"PK\x03\x04": "a spreadsheet, a document or a zip: use `kind: excel` or `kind: docx`, or unpack it",
    b"\xd0\xcf\x11\xe0": "this is an Office file: use `kind: excel`, or save it as CSV",
    b"%PDF": "this is a PDF: use `kind: pdf`",
}
_COMMON = ("cp932", "euc_jp", "cp949", "gb18030", "big5", "cp1251", "koi8_r", "cp1250", "cp1253", "cp1255", "cp1256")
"""Of encodings that fit equally well, the one that most files are in."""
_AS_GOOD = 0.02
_NO_LETTERS = frozenset("¹³¿¼¾½£¥¢¡¦¬¶·±")
_ODD = frozenset(range(9))
"""Control characters that text does not hold."""


class Encoding(NamedTuple):
    """A codec's name, and what is said about the choice."""

    name: str
    note: str = ""


def find(data: bytes, asked: str, file: str) -> Encoding:
    """The encoding of a file that begins with these bytes."""
    if asked != "auto":
        return Encoding(asked)
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            return Encoding(name, "" if name == "utf-8-sig" else f"{file}: read as {name.upper()} (its mark says so)")
    if wide := _wide(data):
        return Encoding(wide, f"{file}: read as {wide.upper()} (every second byte is nothing); set `encoding` if not")
    if binary_remedy(data) is not None:
        remedy = binary_remedy(data) or "give a CSV, JSONL or Parquet file"
        raise DataError("is not a text file (it holds binary bytes)", where=Where(file=file), remedy=remedy)
    return _told(data, file)


def is_wide(name: str) -> bool:
    """Whether a newline takes several bytes."""
    return name.replace("_", "-").lower().startswith(("utf-16", "utf-32"))


def decode_start(data: bytes, encoding: str, where: Where) -> str:
    """The beginning of a file as text; a character that the end cuts is left out."""
    try:
        return codecs.getincrementaldecoder(encoding)("replace").decode(data)
    except UnicodeError as error:
        remedy = "check `encoding`; `auto` finds most"
        raise DataError(f"is not {encoding}: it has no byte order mark", where=where, remedy=remedy) from error
    except LookupError as error:
        remedy = "use a name that Python knows, such as utf-8, utf-16, cp1252 or latin-1"
        place = Where(file=where.file, field="encoding")
        raise DataError(f"encoding {encoding!r} is unknown", where=place, remedy=remedy) from error


def binary_remedy(data: bytes) -> str | None:
    """What to do with bytes that are no text (it may be nothing); None for text. A stray NUL is its row's affair."""
    for mark, remedy in _BINARY.items():
        if data.startswith(mark):
            return remedy
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


def _told(data: bytes, file: str) -> Encoding:
    """UTF-8 unless most of the lines outside ASCII are something else."""
    if is_utf8(data):
        return Encoding("utf-8")
    foreign = [line for line in data.split(b"\n")[:-1] or [data] if not line.isascii()]
    if 2 * sum(map(is_utf8, foreign)) >= len(foreign):
        return Encoding("utf-8")
    name = _single_byte(b"\n".join(foreign))
    how = "told from its bytes, which are not UTF-8; set `encoding` if letters look wrong"
    return Encoding(name, f"{file}: read as {name} ({how})")


def _single_byte(data: bytes) -> str:
    high = sum(byte >= 0x80 for byte in data)
    letters = high + sum(65 <= byte <= 90 or 97 <= byte <= 122 for byte in data)
    if high < _WESTERN_SHARE * letters and _reads_western(data):
        return "cp1252"
    from charset_normalizer import from_bytes

    every = list(from_bytes(data))
    found = [one for one in every if one.encoding in _COMMON] or every
    likely = [one.encoding for one in found if one.chaos <= found[0].chaos + _AS_GOOD]
    return min(likely, key=lambda name: (_case_faults(data, name), _rank(name)), default="latin-1")


def _case_faults(data: bytes, encoding: str) -> int:
    """How often a capital follows a small letter: KOI8-R and cp1251 write each other's capitals as small letters."""
    text = data.decode(encoding, "replace")
    return sum(one.islower() and other.isupper() for one, other in pairwise(text))


def _rank(encoding: str) -> int:
    return _COMMON.index(encoding) if encoding in _COMMON else len(_COMMON)


def _reads_western(data: bytes) -> bool:
    """Whether bytes are cp1252 without signs in the middle of words, where Polish or Czech has letters."""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return not any(one.isalpha() and other in _NO_LETTERS for one, other in pairwise(text))
