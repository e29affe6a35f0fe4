"""Texts as words and what stands between them, so that one word can be changed and all else stays as it was."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

TAG = re.compile(
    r"\[[A-Z][A-Z_]{0,40}[- ]?\d{0,9}\]|<[A-Z][A-Z_]{0,40}[- ]?\d{0,9}>|\{\{[^{}]{1,60}\}\}|\{[^{}\s]{1,60}\}"
)
"""Tags of personal data and placeholders."""
_FIRST_MARK = 0x300
"""The first character that is written onto another."""
_TOKEN = re.compile(r"[^\s\u2e80-\U0003ffff]+")
"""What stands between spaces, or between signs of a script that has none: `第3次` holds one number."""
DIGIT = re.compile(r"\d")


def split_into_words(text: str) -> list[str]:
    """The text cut into words and single other characters; joined, they are the text."""
    return _compile_plain().findall(text) if text.isascii() else _compile_marked().findall(text)


@cache
def _compile_plain() -> re.Pattern[str]:
    return _build_pattern("")


@cache
def _compile_marked() -> re.Pattern[str]:
    """With vowel signs and accents of their own, which Python's `\\w` lacks: Hindi words would be cut at each."""
    marks = [char for char in map(chr, range(_FIRST_MARK, 1 << 16)) if unicodedata.category(char) in ("Mn", "Mc")]
    return _build_pattern("".join(marks))


def _build_pattern(marks: str) -> re.Pattern[str]:
    letters = rf"[^\W\d_](?:[^\W\d_]|[{marks}])*" if marks else r"[^\W\d_]+"
    return re.compile(rf"{letters}(?:['’]{letters})*|\W|[\d_]+")


def is_word(piece: str) -> bool:
    """Whether a piece is a word: letters, and apostrophes between them."""
    return piece[:1].isalpha()


def find_protected_spans(text: str) -> list[tuple[int, int]]:
    """Spans that nobody may change: tags, placeholders, addresses, and whatever holds a digit; in order, apart."""
    tokens = (found for found in _TOKEN.finditer(text) if _is_code(found[0]))
    found: list[tuple[int, int]] = []
    for start, end in sorted([*(match.span() for match in TAG.finditer(text)), *(token.span() for token in tokens)]):
        if found and start < found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _is_code(token: str) -> bool:
    return "@" in token or "://" in token or DIGIT.search(token) is not None


def unprotected_word_indices(text: str, parts: list[str]) -> list[int]:
    """Places of the words that may be changed."""
    spans = iter([*find_protected_spans(text), (len(text) + 1, len(text) + 1)])
    start, end = next(spans)
    found: list[int] = []
    at = 0
    for index, piece in enumerate(parts):
        while end <= at:
            start, end = next(spans)
        if is_word(piece) and at + len(piece) <= start:
            found.append(index)
        at += len(piece)
    return found


def match_case(word: str, like: str) -> str:
    """Write a word in the letter case of another."""
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def replace_word_with_article(parts: list[str], index: int, word: str) -> list[str]:
    """The pieces with another word in a place, and `a` or `an` before it as its sound wants."""
    made = [*parts[:index], word, *parts[index + 1 :]]
    if index >= 2 and parts[index - 1] == " " and parts[index - 2].lower() in ("a", "an"):
        made[index - 2] = match_case("an" if word[0].lower() in "aeiou" else "a", parts[index - 2])
    return made
