"""Following the ledger: what names mean is read again and again on the side, so that no request waits for a database.

A model is open before a name means it, and is closed when no name means it any more and its last request is over. While
the ledger is away, names mean what they meant.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from luthier.core.errors import LuthierError
from luthier.core.ledger import Ledger
from luthier.traffic.releases import Release, current
from luthier.traffic.seams import Models, Route

_LOG = logging.getLogger("luthier.traffic")
Owners = Callable[[Ledger, Mapping[str, Release]], Mapping[str, str | None]]
"""Of released names, those that belong to one key, and whose they are; called in a thread."""


class _Read(NamedTuple):
    releases: dict[str, Release]
    owners: Mapping[str, str | None]


def _nobodys(ledger: Ledger, released: Mapping[str, Release]) -> Mapping[str, str | None]:
    return {}


class Follower:
    """Knows what names mean, as the ledger said last; it lives on one event loop."""

    def __init__(
        self,
        opened: Callable[[], Ledger],
        models: Models | None = None,
        *,
        owners: Owners = _nobodys,
        every_s: float = 1.0,
    ) -> None:
        """`opened` opens the ledger, in a thread; `models` opens and closes models, where somebody holds them; `owners`
        knows which names are not everybody's."""
        self._opened, self._models, self._find_owners, self._every_s = opened, models, owners, every_s
        self._owners: Mapping[str, str | None] = {}
        self._owned: Mapping[str, str | None] = {}
        self._ledger: Ledger | None = None
        self._now: dict[str, Release] = {}
        self._refused: dict[str, int] = {}
        """Changes whose model could not be opened: they are not tried again until another change comes."""
        self._task: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        """Models whose last requests are waited for."""
        self._away = False

    def names(self) -> Sequence[str]:
        """The names that mean something."""
        return list(self._now)

    def resolve(self, name: str, user: str | None, request: str = "") -> Route | None:
        """Who answers to a name."""
        found = self._now.get(name)
        return found.route(user, request) if found is not None else None

    def owners(self) -> Mapping[str, str | None]:
        """Names that belong to one key, and the models that no other name means, by the words that open them."""
        return self._owned

    def _own(self) -> None:
        """See who owns what, each time that names or owners change."""
        owned = dict(self._owners)
        free = {model.model for name, known in self._now.items() if name not in owned for model in known.models}
        for name in self._owners.keys() & self._now.keys():
            for model in self._now[name].models:
                if model.model not in free:
                    key = self._owners[name]
                    owned[model.model] = key if owned.get(model.model, key) == key else None
        self._owned = owned

    async def start(self) -> None:
        """Read what names mean, and go on reading; `LuthierError` when the ledger cannot be read.

        A name whose model cannot be opened means nothing; the log says why, and the others work.
        """
        read, self._owners = await asyncio.to_thread(self._read)
        self._own()
        for release in read.values():
            await self._try(release)
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Read no more; the models stay as they are."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for task in self._leaving:
            task.cancel()
        if self._ledger is not None:
            self._ledger.close()

    async def __aenter__(self) -> Follower:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self.look()

    async def look(self) -> None:
        """Read once, and do what changed; what goes wrong is logged, and names mean what they meant."""
        try:
            read, self._owners = await asyncio.to_thread(self._read)
        except LuthierError as error:
            if not self._away:
                _LOG.warning("the ledger cannot be read, so names mean what they meant: %s", error)
            self._away = True
            return
        self._away = False
        self._own()
        for alias, release in read.items():
            known = self._now.get(alias)
            if (known is None or known.id != release.id) and self._refused.get(alias) != release.id:
                await self._try(release)
        if gone := self._now.keys() - read.keys():
            self._let_go({alias: release for alias, release in self._now.items() if alias not in gone})

    async def _try(self, release: Release) -> None:
        try:
            await self._switch(release)
        except LuthierError as error:
            self._refused[release.alias] = release.id
            _LOG.error("%s stays as it was: %s", release.alias, error)

    async def _switch(self, release: Release) -> None:
        """Open what is needed, let the name mean it, then let go what no name means."""
        if self._models is not None:
            for model in release.models:
                await self._models.prepare(model.model)
        self._let_go({**self._now, release.alias: release})

    def _let_go(self, now: dict[str, Release]) -> None:
        """From now on names mean this; what none of them means any more is closed after its last request."""
        before = self._meant()
        self._now = now
        self._own()
        if self._models is not None:
            for gone in sorted(before - self._meant()):
                task = asyncio.create_task(self._models.retire(gone))
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)

    def _meant(self) -> set[str]:
        return {model.model for known in self._now.values() for model in known.models}

    def _read(self) -> _Read:
        if self._ledger is None:
            self._ledger = self._opened()
        releases = current(self._ledger)
        return _Read(releases, self._find_owners(self._ledger, releases))
