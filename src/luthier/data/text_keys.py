"""What makes two texts the same: one normal form, and digests of it."""

from __future__ import annotations

import unicodedata

import xxhash

from luthier.data.row import Row


def normal(text: str) -> str:
    """A text without its dress: compatibility forms, case and white space do not count."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def prompt_key(row: Row) -> str:
    """The normal form of what stands before the answer; of the text itself when nothing stands before it."""
    return normal(row.prompt) or normal(row.answer)


def digest8(text: str) -> int:
    """64 bits of a text."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def digest16(text: str) -> bytes:
    """128 bits of a text."""
    return xxhash.xxh3_128_digest(text.encode("utf-8", "surrogatepass"))
