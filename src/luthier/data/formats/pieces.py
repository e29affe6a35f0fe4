"""From a document's paragraphs to rows: the whole of it, or a piece by page, heading or length."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

from luthier.data.formats.lines import LONGEST_BYTES
from luthier.data.row import Broken, Record

By = Literal["document", "page", "heading", "length"]
_END = re.compile(r"[.!?…]['\")\]]*\s+|\s+")


class Paragraph(NamedTuple):
    """A paragraph, the line (or page) on which it starts, and the heading that it stands under."""

    text: str
    line: int
    heading: str = ""


def rows(paragraphs: Iterable[Paragraph | Broken], by: By, length: int, name: str) -> Iterator[Record | Broken]:
    """One row a document or a piece: `text`, `document`, `piece` (from 1), and `heading` where there is one."""
    piece, is_told = 0, False
    for found in _pieces(paragraphs, by, length):
        if isinstance(found, Broken):
            is_told = True
            yield found
            continue
        piece += 1
        text = "\n\n".join(paragraph.text for paragraph in found).strip()
        if len(text) > LONGEST_BYTES:
            problem = f"the text is longer than {LONGEST_BYTES >> 20} MiB"
            yield Broken(name, found[0].line, problem, remedy="set `piece: length`")
            continue
        values: dict[str, Any] = {"text": text, "document": name, "piece": piece}
        if by == "heading":
            values["heading"] = found[0].heading
        yield Record(values, name, found[0].line)
    if piece == 0 and not is_told:
        yield Broken(name, 1, "holds no text", remedy="a scan needs text recognition first; or leave the file out")


def _pieces(paragraphs: Iterable[Paragraph | Broken], by: By, length: int) -> Iterator[list[Paragraph] | Broken]:
    held: list[Paragraph] = []
    for found in _short(paragraphs, length) if by == "length" else paragraphs:
        if isinstance(found, Broken):
            yield found
        elif found.text.strip():
            if held and _ends(held, found, by, length):
                yield held
                held = []
            held.append(found)
    if held:
        yield held


def _ends(held: list[Paragraph], more: Paragraph, by: By, length: int) -> bool:
    if by == "length":
        return sum(len(paragraph.text) + 2 for paragraph in held) + len(more.text) > length
    if by == "page":
        return held[0].line != more.line
    if by == "heading":
        return held[0].heading != more.heading
    return sum(len(paragraph.text) for paragraph in held) > LONGEST_BYTES


def _short(paragraphs: Iterable[Paragraph | Broken], length: int) -> Iterator[Paragraph | Broken]:
    """Paragraphs of at most `length` characters, cut behind a sentence where there is one, else behind a word."""
    for found in paragraphs:
        if isinstance(found, Broken):
            yield found
            continue
        at = 0
        while len(found.text) - at > length:
            end = _cut(found.text, at, length)
            yield found._replace(text=found.text[at:end].strip())
            at = end
        yield found._replace(text=found.text[at:].strip())


def _cut(text: str, at: int, length: int) -> int:
    ends = [(found.end(), found[0][0] not in " \t\n") for found in _END.finditer(text, at, at + length)]
    sentences = [end for end, sentence in ends if sentence and end - at > length // 2]
    words = [end for end, _ in ends if end > at]
    return sentences[-1] if sentences else words[-1] if words else at + length
