"""Code as Markdown marks it: what cleans prose leaves it alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count

FENCE = "```"
FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
"""Code between fences; one that is never closed goes on to the end."""
CODE = re.compile(rf"{FENCED.pattern}|`[^`\n]+`", re.DOTALL)
"""The same, and code between backticks in a line."""
_FIRST_MARK = 0xE000
"""The first character that Unicode leaves to private use."""


def between_code(text: str, clean: Callable[[str], str]) -> str:
    """The text with each stretch outside of code cleaned by itself."""
    if "`" not in text:
        return clean(text)
    parts: list[str] = []
    at = 0
    for code in CODE.finditer(text):
        parts += clean(text[at : code.start()]), code[0]
        at = code.end()
    return "".join([*parts, clean(text[at:])])


def around_code(text: str, clean: Callable[[str], str], pattern: re.Pattern[str] = CODE) -> str:
    """The text cleaned as one, with a mark where code stands, which is put back; as it is when a mark would get lost.

    For mark-up that begins before some code and ends behind it.
    """
    codes = pattern.findall(text) if "`" in text else []
    if not codes:
        return clean(text)
    mark = next(char for char in map(chr, count(_FIRST_MARK)) if char not in text)
    first, *rest = clean(pattern.sub(mark, text)).split(mark)
    if len(rest) != len(codes):
        return text
    return "".join([first, *(part for pair in zip(codes, rest, strict=True) for part in pair)])
