"""From token ids to text, piece by piece: no character is ever torn apart, and no stop text slips out.

The pieces of an answer, put together, are the text that decoding all its ids at once gives. (Where a SentencePiece
model writes bytes that are no character right after some that are, decoding at once breaks those before as well; here
they stay what they were.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from luthier.text.calls import held

Decode = Callable[[Sequence[int]], str]
_BROKEN = "\ufffd"
"""What stands for bytes that are no character, or not yet one."""


class Letters:
    """Turns ids into text as they come. Only the last few are decoded again, so that long answers cost no more."""

    def __init__(self, decode: Decode, silent: Collection[int] = ()) -> None:
        """`silent` ids write nothing: end tokens and, unless they are wanted, special ones."""
        self._decode, self._silent = decode, silent
        self._ids: list[int] = []
        self._front = 0
        """Where the window begins: at ids whose text is certain, which stand there since some tokenizers write the
        first token of a text otherwise."""
        self._certain = 0
        self._told = 0
        """Characters of the window that were given away."""

    def add(self, token: int) -> str:
        """The text that is certain now and was not before."""
        if token in self._silent:
            return ""
        self._ids.append(token)
        text = self._decode(self._ids[self._front :])
        whole = text.rstrip(_BROKEN)
        piece = whole[self._told :]
        self._told = max(self._told, len(whole))
        if len(whole) == len(text):
            self._move()
        return piece

    def rest(self) -> str:
        """What is left when no more ids come: a character that was never finished."""
        text = self._decode(self._ids[self._front :]) if self._ids else ""
        piece, self._told = text[self._told :], len(text)
        return piece

    def _move(self) -> None:
        """Let the window begin at the last ids whose text was certain."""
        self._front, self._certain = self._certain, len(self._ids)
        self._told = len(self._decode(self._ids[self._front : self._certain]))


class Ending:
    """Finds the first of several stop texts in what is written, also when it comes in pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """What may be given away: nothing from a stop text on, and nothing that may still become one."""
        if self.found:
            return ""
        if not self._stops:
            return text
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            return self._held[: min(places)]
        keep = max(held(self._held, stop) for stop in self._stops)
        given, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return given

    def rest(self) -> str:
        """What was held back, when no more comes."""
        given, self._held = ("" if self.found else self._held), ""
        return given
