"""The pages of the documentation, which the wheel carries, by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import luthier
from luthier.core.errors import UnknownName, did_you_mean

_PACKAGE = Path(luthier.__path__[0])
_FOLDERS = (_PACKAGE / "manual", _PACKAGE.parents[1] / "docs")
"""Folders of pages: in an installed wheel, and in a checkout."""


@dataclass(frozen=True)
class ManualPage:
    """One page: its name, title, and text as Markdown."""

    name: str
    path: Path

    @property
    def text(self) -> str:
        """The page as Markdown."""
        return self.path.read_text(encoding="utf-8")

    @property
    def title(self) -> str:
        """The first heading."""
        return self.text.partition("\n")[0].lstrip("# ").strip()


def load_manual_pages() -> dict[str, ManualPage]:
    """Tutorials and how-to pages by name; empty where neither the wheel's nor a checkout's are there."""
    folder = next((folder for folder in _FOLDERS if (folder / "tutorial.md").is_file()), None)
    if folder is None:
        return {}
    paths = sorted([*folder.glob("tutorial*.md"), *(folder / "howto").glob("*.md")])
    return {path.stem: ManualPage(path.stem, path) for path in paths if path.stem != "index"}


def find_manual_page(name: str) -> ManualPage:
    """Return one page by name; `UnknownName` with the nearest otherwise."""
    known = load_manual_pages()
    if name not in known:
        raise UnknownName(f"there is no page {name!r}", hint=did_you_mean(name, known))
    return known[name]


def search_pages(words: str) -> Iterator[tuple[ManualPage, str]]:
    """Pages that hold every word, with the first line that holds most of them."""
    terms = [word for word in re.split(r"\W+", words.casefold()) if word]
    for manual_page in load_manual_pages().values():
        text = manual_page.text
        if terms and all(word in text.casefold() for word in terms):
            lines = [line.strip("#*|- ").strip() for line in text.splitlines() if line.strip()]
            yield manual_page, max(lines, key=lambda line: sum(word in line.casefold() for word in terms))
