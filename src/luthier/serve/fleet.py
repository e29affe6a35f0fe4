"""The open models: opened at need, held while somebody is answered, closed when they are retired and idle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from luthier.core.errors import UnknownName, did_you_mean
from luthier.serve.engine import Answering


class Opened(NamedTuple):
    """A model that was opened, and what it is called beside the word that it was opened by."""

    name: str
    answering: Answering


Opener = Callable[[str], Opened]
"""Opens a model by a word (`recipe.yaml:tune`, a base model's name); it takes its time, and is called in a thread."""


class _Held:
    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.users = 0
        self.idle = asyncio.Event()
        self.idle.set()


class Fleet:
    """Keeps models open. It lives on one event loop."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._held: dict[str, _Held] = {}
        self._names: dict[str, str] = {}
        self._opening = asyncio.Lock()

    def names(self) -> list[str]:
        """What the open models are called."""
        return [held.opened.name for held in self._held.values()]

    def each(self) -> Sequence[Opened]:
        """The open models."""
        return [held.opened for held in self._held.values()]

    def knows(self, name: str) -> bool:
        """Whether a model of this name is open, by its own name or by the word that opened it."""
        return name in self._names

    def digest(self, name: str) -> str:
        """The digest of an open model."""
        word = self._names.get(name)
        return self._held[word].opened.answering.digest if word is not None else ""

    async def prepare(self, model: str) -> str:
        """Open a model if it is not open, and return its digest."""
        async with self._opening:
            if model not in self._names:
                opened = await asyncio.to_thread(self._opener, model)
                self._names |= {opened.name: model, model: model}
                self._held[model] = _Held(opened)
        return self._held[self._names[model]].opened.answering.digest

    async def retire(self, model: str) -> None:
        """Close a model once the last request that it answers is over; nobody new reaches it."""
        word = self._names.get(model)
        if word is None:
            return
        held = self._held.pop(word)
        self._names = {name: other for name, other in self._names.items() if other != word}
        await held.idle.wait()
        await held.opened.answering.close()

    @asynccontextmanager
    async def using(self, model: str) -> AsyncIterator[Answering]:
        """Hold a model open for the time of one request; `UnknownName` when it is not open."""
        word = self._names.get(model)
        if word is None:
            raise UnknownName(f"the model {model[:200]!r} is not served here", remedy=did_you_mean(model, self._names))
        held = self._held[word]
        held.users += 1
        held.idle.clear()
        try:
            yield held.opened.answering
        finally:
            held.users -= 1
            if not held.users:
                held.idle.set()

    async def close(self) -> None:
        """Close all of them at once, whatever is being written."""
        for held in self._held.values():
            await held.opened.answering.close()
        self._held.clear()
        self._names.clear()
