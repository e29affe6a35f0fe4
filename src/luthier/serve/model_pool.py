"""The pool of open models: opened on demand, kept while requests run, closed when retired and idle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from luthier.core.errors import UnknownName, did_you_mean
from luthier.serve.engine import ModelRunner


class OpenModel(NamedTuple):
    """An open model with its display name."""

    name: str
    answering: ModelRunner


class ResolvedModel(NamedTuple):
    """A resolved model name, before the model is opened."""

    name: str
    """Its display name."""
    key: str
    """Equal for names of the same model."""


Opener = Callable[[str], OpenModel]
"""Opens a model by a word (`recipe.yaml:tune`, a base model's name); it takes its time, and is called in a thread."""
Finder = Callable[[str], ResolvedModel]
"""Finds out what a word means; called in a thread, too."""


class _Held:
    def __init__(self, answering: ModelRunner) -> None:
        self.answering = answering
        self.names: dict[str, str] = {}
        """By the words that mean it: what it is called."""
        self.users = 0
        self.idle = asyncio.Event()
        self.idle.set()


class ModelPool:
    """Keeps models open, each once, by whatever words it is wanted. It lives on one event loop."""

    def __init__(
        self, opener: Opener, finder: Finder | None = None, *, changed: Callable[[], None] = lambda: None
    ) -> None:
        """Without a finder, each word means a model of its own. `changed` is called when a model was opened or closed,
        in a thread."""
        self._opener, self._finder, self._changed = opener, finder, changed
        self._held: dict[str, _Held] = {}
        self._keys: dict[str, str] = {}
        """By words and names: which model they mean."""
        self._opening = asyncio.Lock()

    def names(self) -> list[str]:
        """Return the names of the open models."""
        return list(dict.fromkeys(name for held in self._held.values() for name in held.names.values()))

    def each(self) -> Sequence[OpenModel]:
        """The open models."""
        return [OpenModel(next(iter(held.names.values())), held.answering) for held in self._held.values()]

    def knows(self, name: str) -> bool:
        """Return whether a model of this name is open, by its own name or by a name that resolved to it."""
        return name in self._keys

    def words(self, name: str) -> set[str]:
        """The words by which the open model of this name was opened."""
        held = self._held.get(self._keys.get(name, ""))
        return {word for word, called in held.names.items() if name in (word, called)} if held is not None else set()

    def digest(self, name: str) -> str:
        """The digest of an open model."""
        key = self._keys.get(name)
        return self._held[key].answering.digest if key is not None else ""

    async def prepare(self, model: str) -> str:
        """Open a model if it is not open, and return its digest."""
        async with self._opening:
            if model not in self._keys:
                await self._open(model)
        return self.digest(model)

    async def _open(self, model: str) -> None:
        resolved_model = await asyncio.to_thread(self._finder, model) if self._finder is not None else None
        held = self._held.get(resolved_model.key) if resolved_model is not None else None
        if resolved_model is None or held is None:
            opened = await asyncio.to_thread(self._opener, model)
            resolved_model = resolved_model or ResolvedModel(opened.name, model)
            held = self._held[resolved_model.key] = _Held(opened.answering)
        held.names[model] = resolved_model.name
        self._keys |= {resolved_model.name: resolved_model.key, model: resolved_model.key}
        await asyncio.to_thread(self._changed)

    async def retire(self, model: str) -> None:
        """Remove a name; a model without other names is closed once its last request ends."""
        key = self._keys.get(model)
        if key is None:
            return
        held = self._held[key]
        held.names = {word: name for word, name in held.names.items() if model not in (word, name)}
        left = {*held.names, *held.names.values()}
        self._keys = {name: other for name, other in self._keys.items() if other != key or name in left}
        if held.names:
            return
        del self._held[key]
        await held.idle.wait()
        await held.answering.close()
        del held
        await asyncio.to_thread(self._changed)

    @asynccontextmanager
    async def using(self, model: str) -> AsyncIterator[ModelRunner]:
        """Hold a model open for the time of one request; `UnknownName` when it is not open."""
        key = self._keys.get(model)
        if key is None:
            raise UnknownName(f"the model {model[:200]!r} is not served here", hint=did_you_mean(model, self._keys))
        held = self._held[key]
        held.users += 1
        held.idle.clear()
        try:
            yield held.answering
        finally:
            held.users -= 1
            if not held.users:
                held.idle.set()

    async def close(self) -> None:
        """Close all of them at once, whatever is being written."""
        for held in self._held.values():
            await held.answering.close()
        self._held.clear()
        self._keys.clear()
