"""Stretches of lines taken out of a text, as edits that show exactly what went."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from luthier.data.cleaning.quoted import Span
from luthier.data.operator import Edit


def line_spans(text: str) -> list[Span]:
    """Every line with its line feed."""
    starts = [0]
    while (at := text.find("\n", starts[-1]) + 1) > 0:
        starts.append(at)
    return [Span(start, end) for start, end in pairwise([*starts, len(text)]) if start < end]


def lines_where(text: str, unwanted: Callable[[str], bool]) -> list[Span]:
    """The lines that are not wanted, without those that hold nothing."""
    return [span for span in line_spans(text) if (line := text[span.start : span.end].strip()) and unwanted(line)]


def cut(field: str, text: str, spans: Iterable[Span], reason: str) -> list[Edit]:
    """Edits that take spans of whole lines out, with the empty lines that would be left at the ends or doubled.

    Nothing is cut when nothing would be left.
    """
    merged = _widened(text, _bridged(text, sorted(spans)))
    if not any(kept.strip() for kept in _kept(text, merged)):
        return []
    return [Edit(field, span.start, span.end, text[span.start : span.end], "", reason) for span in merged]


def _bridged(text: str, spans: Sequence[Span]) -> list[Span]:
    """Spans with nothing but white space between them made one."""
    found: list[Span] = []
    for span in spans:
        if found and not text[found[-1].end : span.start].strip():
            found[-1] = Span(found[-1].start, max(found[-1].end, span.end))
        elif span.start < span.end:
            found.append(span)
    return found


def _widened(text: str, spans: Sequence[Span]) -> list[Span]:
    """Spans with the white space around them that nobody needs any more."""
    first, last = len(text) - len(text.lstrip()), len(text.rstrip())
    found: list[Span] = []
    for span in spans:
        start = 0 if span.start <= first else span.start
        is_doubled = start == 0 or text[max(0, start - 2) : start] == "\n\n"
        end = _behind(text, span.end) if is_doubled else span.end
        found.append(Span(_back(text, start), len(text)) if end >= last else Span(start, end))
    return found


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


def _kept(text: str, spans: Sequence[Span]) -> Iterable[str]:
    at = 0
    for span in spans:
        yield text[at : span.start]
        at = span.end
    yield text[at:]
