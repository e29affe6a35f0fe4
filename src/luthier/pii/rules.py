"""Tables of rules in TOML: lists of words, and patterns made of parts.

A list of words may hold another (`@cues`) and leave words or lists out (`-@first`, `-left`). In a pattern `{{town}}`
stands for a part of its table or for any word of a list. The lines of a pattern are joined.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

_REFERENCE = re.compile(r"\{\{(\w+)\}\}")


class RuleTable:
    """The words and patterns of a file."""

    def __init__(self, file: Path) -> None:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
        self._lists: dict[str, str] = tables.get("words", {})
        self._parts: dict[str, str] = tables["parts"]
        self.patterns = {name: re.compile(self._whole(text)) for name, text in tables["patterns"].items()}
        """By their names."""

    def words(self, name: str) -> frozenset[str]:
        """The words of a list."""
        return frozenset(self.ordered_words(name))

    def ordered_words(self, name: str) -> list[str]:
        """The words of a list as they stand there."""
        found: list[str] = []
        for item in self._lists[name].split():
            word = item.lstrip("-")
            named = self.ordered_words(word[1:]) if word[0] == "@" else [word]
            found = [*found, *named] if word == item else [entry for entry in found if entry not in set(named)]
        return found

    def _whole(self, text: str) -> str:
        return _REFERENCE.sub(lambda found: self._named(found[1]), text.replace("\n", ""))

    def _named(self, name: str) -> str:
        """A part, or any word of a list, the longest first."""
        if name in self._parts:
            return self._whole(self._parts[name])
        words = sorted(self.ordered_words(name), key=len, reverse=True)
        return "(?:" + "|".join(word.replace(".", r"\.") for word in words) + ")"
