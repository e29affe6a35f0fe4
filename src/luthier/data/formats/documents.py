"""Text of HTML and of documents, and its division into chunks.

HTML is never executed and loads nothing. A document becomes one row, or one row per page, heading or length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from typing import Any, Literal, NamedTuple

from luthier.data.formats.lines import LONGEST_BYTES
from luthier.data.row import BrokenRow, SourceRecord

_UNSEEN = frozenset({"script", "style", "head", "template", "noscript", "svg", "iframe", "object"})
_BLOCKS = frozenset(
    {"address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figcaption", "footer"}
)
_BLOCKS |= {"form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre"}
_BLOCKS |= {"section", "table", "td", "th", "tr", "ul"}
_QUOTES = frozenset({"blockquote"})


def html_to_text(html: str) -> str:
    """The text that a reader sees, a line for each block; quoted blocks begin with `>`, as in mails."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in reader.lines())).strip()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._unseen = 0
        self._quoted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._unseen += tag in _UNSEEN
        if tag in _BLOCKS:
            self._parts.append("\n\n" if tag == "p" else "\n")
        if tag in _QUOTES:
            self._quoted += 1

    def handle_endtag(self, tag: str) -> None:
        self._unseen = max(0, self._unseen - (tag in _UNSEEN))
        if tag in _QUOTES:
            self._quoted = max(0, self._quoted - 1)
        if tag in _BLOCKS:
            self._parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            text = " ".join(data.split())
            before = " " if data[:1].isspace() else ""
            after = " " if data[-1:].isspace() and text else ""
            mark = "> " if self._quoted and (not self._parts or self._parts[-1].endswith("\n")) and text else ""
            self._parts.append(f"{mark}{before if not mark else ''}{text}{after}")

    def lines(self) -> list[str]:
        """What was read, line by line."""
        return [" ".join(line.split(" ")).strip() for line in "".join(self._parts).split("\n")]


By = Literal["document", "page", "heading", "length"]
_END = re.compile(r"[.!?…]['\")\]]*\s+|\s+")


class Paragraph(NamedTuple):
    """A paragraph, the line (or page) on which it starts, and the heading that it stands under."""

    text: str
    line: int
    heading: str = ""


def chunk_paragraphs(
    paragraphs: Iterable[Paragraph | BrokenRow], by: By, length: int, name: str
) -> Iterator[SourceRecord | BrokenRow]:
    """One row a document or a piece: `text`, `document`, `piece` (from 1), and `heading` where there is one."""
    piece, is_told = 0, False
    for found in _pieces(paragraphs, by, length):
        if isinstance(found, BrokenRow):
            is_told = True
            yield found
            continue
        piece += 1
        text = "\n\n".join(paragraph.text for paragraph in found).strip()
        if len(text) > LONGEST_BYTES:
            problem = f"the text is longer than {LONGEST_BYTES >> 20} MiB"
            yield BrokenRow(name, found[0].line, problem, hint="set `chunk_by: length`")
            continue
        values: dict[str, Any] = {"text": text, "document": name, "piece": piece}
        if by == "heading":
            values["heading"] = found[0].heading
        yield SourceRecord(values, name, found[0].line)
    if piece == 0 and not is_told:
        yield BrokenRow(name, 1, "holds no text", hint="a scan needs text recognition first; or leave the file out")


def _pieces(paragraphs: Iterable[Paragraph | BrokenRow], by: By, length: int) -> Iterator[list[Paragraph] | BrokenRow]:
    held: list[Paragraph] = []
    for found in _short(paragraphs, length) if by == "length" else paragraphs:
        if isinstance(found, BrokenRow):
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


def _short(paragraphs: Iterable[Paragraph | BrokenRow], length: int) -> Iterator[Paragraph | BrokenRow]:
    """Paragraphs of at most `length` characters, cut behind a sentence where there is one, else behind a word."""
    for found in paragraphs:
        if isinstance(found, BrokenRow):
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
