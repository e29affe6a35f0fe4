"""Spans of a text: removed lines as edits, Markdown code that cleaning keeps, and differences of two texts.

Differences are found in one pass over the texts and are short enough to read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, pairwise

from luthier.data.cleaning.quoted import QuoteSpan
from luthier.data.operator import TextEdit


def line_spans(text: str) -> list[QuoteSpan]:
    """Every line with its line feed."""
    starts = [0]
    while (at := text.find("\n", starts[-1]) + 1) > 0:
        starts.append(at)
    return [QuoteSpan(start, end) for start, end in pairwise([*starts, len(text)]) if start < end]


def find_unwanted_lines(text: str, unwanted: Callable[[str], bool]) -> list[QuoteSpan]:
    """The lines that are not wanted, without those that hold nothing."""
    return [span for span in line_spans(text) if (line := text[span.start : span.end].strip()) and unwanted(line)]


def edits_removing_spans(field: str, text: str, spans: Iterable[QuoteSpan], reason: str) -> list[TextEdit]:
    """Edits that take spans of whole lines out, with the empty lines that would be left at the ends or doubled.

    Nothing is cut when nothing would be left.
    """
    merged = _widened(text, _bridged(text, sorted(spans)))
    if not any(kept.strip() for kept in _kept(text, merged)):
        return []
    return [TextEdit(field, span.start, span.end, text[span.start : span.end], "", reason) for span in merged]


def _bridged(text: str, spans: Sequence[QuoteSpan]) -> list[QuoteSpan]:
    """Spans with nothing but white space between them made one."""
    quote_spans: list[QuoteSpan] = []
    for span in spans:
        if quote_spans and not text[quote_spans[-1].end : span.start].strip():
            quote_spans[-1] = QuoteSpan(quote_spans[-1].start, max(quote_spans[-1].end, span.end))
        elif span.start < span.end:
            quote_spans.append(span)
    return quote_spans


def _widened(text: str, spans: Sequence[QuoteSpan]) -> list[QuoteSpan]:
    """Spans with the white space around them that nobody needs any more."""
    first, last = len(text) - len(text.lstrip()), len(text.rstrip())
    quote_spans: list[QuoteSpan] = []
    for span in spans:
        start = 0 if span.start <= first else span.start
        is_doubled = start == 0 or text[max(0, start - 2) : start] == "\n\n"
        end = _behind(text, span.end) if is_doubled else span.end
        quote_spans.append(QuoteSpan(_back(text, start), len(text)) if end >= last else QuoteSpan(start, end))
    return quote_spans


def _behind(text: str, at: int) -> int:
    """The first place from `at` on that is no line feed."""
    while at < len(text) and text[at] == "\n":
        at += 1
    return at


def _back(text: str, at: int) -> int:
    """The end of what stands before `at`, white space aside."""
    while at > 0 and text[at - 1].isspace():
        at -= 1
    return at


def _kept(text: str, spans: Sequence[QuoteSpan]) -> Iterable[str]:
    at = 0
    for span in spans:
        yield text[at : span.start]
        at = span.end
    yield text[at:]


FENCE = "```"
FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
"""Code between fences; one that is never closed goes on to the end."""
CODE = re.compile(rf"{FENCED.pattern}|`[^`\n]+`", re.DOTALL)
"""The same, and code between backticks in a line."""
_FIRST_MARK = 0xE000
"""The first character that Unicode leaves to private use."""


def clean_outside_code(text: str, clean: Callable[[str], str]) -> str:
    """The text with each stretch outside of code cleaned by itself."""
    if "`" not in text:
        return clean(text)
    parts: list[str] = []
    at = 0
    for code in CODE.finditer(text):
        parts += clean(text[at : code.start()]), code[0]
        at = code.end()
    return "".join([*parts, clean(text[at:])])


def clean_with_code_masked(text: str, clean: Callable[[str], str], pattern: re.Pattern[str] = CODE) -> str:
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


_REACH_CHARS = 16
"""So far around a difference the walk looks for the place where the texts go on alike."""
_ALIKE_CHARS = 6
"""So many equal characters count as going on alike."""
_STRIDE = 64
_FEW_CHARS = 3
"""So few skipped characters are tried out, before all that could be skipped are looked up."""


def diff_to_edits(field: str, before: str, after: str, reason: str) -> list[TextEdit]:
    """Separate spans that turn one text into the other."""
    return [
        TextEdit(field, start, end, before[start:end], after[new_start:new_end], reason)
        for start, end, new_start, new_end in _spans(before, after)
    ]


def _spans(old: str, new: str) -> Iterator[tuple[int, int, int, int]]:
    """Differing stretches of both texts; where they never meet again, the rest is one stretch."""
    i = j = 0
    while True:
        same = _same_chars(old, i, new, j)
        i, j = i + same, j + same
        if i == len(old) and j == len(new):
            return
        skip_old, skip_new = _meet(old, i, new, j)
        yield i, i + skip_old, j, j + skip_new
        i, j = i + skip_old, j + skip_new


def _same_chars(old: str, i: int, new: str, j: int) -> int:
    """How many characters are the same from here."""
    same = 0
    while old[i + same : i + same + _STRIDE] == new[j + same : j + same + _STRIDE] and i + same < len(old):
        same += _STRIDE
    most = min(len(old) - i, len(new) - j)
    step = _STRIDE
    while step > 1:
        step //= 2
        if old[i + same : i + same + step] == new[j + same : j + same + step]:
            same += step
    return min(same, most)


def _meet(old: str, i: int, new: str, j: int) -> tuple[int, int]:
    """The fewest characters to skip in both texts until they go on alike; of equally few, the fewest in the old one."""
    for both in range(1, min(_FEW_CHARS, len(old) - i, len(new) - j) + 1):
        for skip in range(both + 1):
            there = j + both - skip
            if old[i + skip : i + skip + _ALIKE_CHARS] == new[there : there + _ALIKE_CHARS]:
                return skip, both - skip
    least = 2 * _REACH_CHARS
    found: tuple[int, int] | None = None
    for skip_new in range(min(_REACH_CHARS, len(new) - j) + 1):
        if skip_new > least:
            break  # what follows skips more
        piece = new[j + skip_new : j + skip_new + _ALIKE_CHARS]
        skip_old = _first(old, i, piece, min(_REACH_CHARS, least - skip_new))
        if skip_old is not None and skip_old + skip_new < 2 * _REACH_CHARS:
            found, least = (skip_old, skip_new), skip_old + skip_new
    return found or _tail(old, i, new, j)


def _first(old: str, i: int, piece: str, most: int) -> int | None:
    """The fewest characters to skip, at most so many, until the text goes on with a piece; a shorter one is its end."""
    if len(piece) == _ALIKE_CHARS:
        at = old.find(piece, i, i + most + _ALIKE_CHARS)
        return at - i if at >= 0 else None
    skip = len(old) - len(piece) - i
    return skip if 0 <= skip <= most and old.endswith(piece) else None


def _tail(old: str, i: int, new: str, j: int) -> tuple[int, int]:
    """The rest of both texts without what is the same at their ends."""
    most = min(len(old) - i, len(new) - j)
    same = 0
    while same < most and old[-1 - same] == new[-1 - same]:
        same += 1
    return len(old) - i - same, len(new) - j - same
