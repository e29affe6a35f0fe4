"""The text of HTML without its tags, for mails and for pages without a main text; nothing of it is run or fetched."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_UNSEEN = frozenset({"script", "style", "head", "template", "noscript", "svg", "iframe", "object"})
_BLOCKS = frozenset(
    {"address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figcaption", "footer"}
)
_BLOCKS |= {"form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre"}
_BLOCKS |= {"section", "table", "td", "th", "tr", "ul"}
_QUOTES = frozenset({"blockquote"})


def plain_text(html: str) -> str:
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
