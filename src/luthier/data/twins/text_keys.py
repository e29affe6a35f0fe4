"""What makes two texts the same: one normal form, and digests of it."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Literal

import xxhash

from luthier.data.row import Row

Compared = Literal["prompt", "answer", "both"]
"""Which texts of a row are compared with those of others."""


def compared(row: Row, of: Compared) -> str:
    """What is compared of a row: the answer stands for a prompt that is not there."""
    prompt = row.prompt or row.says
    if of == "both":
        return f"{prompt}\n{row.says}"
    return row.says if of == "answer" else prompt


def normal(text: str) -> str:
    """A text without its dress: compatibility forms, case and white space do not count."""
    return _remembered(text) if len(text) <= _REMEMBERED_CHARS else _normal(text)


def _normal(text: str) -> str:
    if text.isascii():
        return text.strip(" ").lower() if _has_single_spaces(text) else " ".join(text.lower().split())
    text = unicodedata.normalize("NFKC", text)
    if text.isprintable() and "  " not in text:  # no white space but single spaces
        return text.strip(" ").casefold()
    return " ".join(text.casefold().split())


def _has_single_spaces(text: str) -> bool:
    """Whether an ASCII text has no white space but single spaces; each look for a character takes next to no time."""
    if "  " in text or "\n" in text or "\t" in text or "\r" in text or "\v" in text or "\f" in text:
        return False
    return not ("\x1c" in text or "\x1d" in text or "\x1e" in text or "\x1f" in text)


_SIGN = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Signs of Chinese and Japanese: each is a word of its own, for nothing stands between words there."""
_PUNCTUATION = re.compile(r"[^\w\s]|_")


def words(text: str) -> list[str]:
    """The words of a text in its normal form: what stands between spaces, without its punctuation."""
    text = normal(text)
    if not text.isascii():
        text = _SIGN.sub(r" \g<0> ", text)
    return _PUNCTUATION.sub("", text).split()


def prompt_key(row: Row) -> str:
    """The normal form of what stands before the answer; of the text itself when nothing stands before it."""
    return normal(row.prompt) or normal(row.answer)


_REMEMBERED_CHARS = 4096
_remembered = lru_cache(maxsize=2048)(_normal)
"""Operators that stand side by side ask for the same texts."""


def digest8(text: str) -> int:
    """64 bits of a text."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def digest16(text: str) -> bytes:
    """128 bits of a text."""
    return xxhash.xxh3_128_digest(text.encode("utf-8", "surrogatepass"))
