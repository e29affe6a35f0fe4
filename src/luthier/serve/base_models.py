"""Open bases under the models that stand on them: each opened once, and let go of by the last that leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar


class SharedBase:
    """What models may stand on."""

    standing = 0
    """How many do."""


Key = TypeVar("Key", bound=Hashable)
Kind = TypeVar("Kind", bound=SharedBase)


class SharedBasePool(Generic[Key, Kind]):
    """A pool of loaded base models that several adapters share, with reference counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Key, Kind] = {}

    def stand(self, key: Key, opened: Callable[[], Kind]) -> Kind:
        """The base of a key, on which one more stands; it is opened where nobody stands on it."""
        with self._lock:
            if key not in self._open:
                self._open[key] = opened()
            base = self._open[key]
            base.standing += 1
            return base

    def leave(self, base: Kind) -> bool:
        """One fewer stands on a base, be it here or under one model alone; True when that was the last."""
        with self._lock:
            base.standing -= 1
            last = not base.standing
            for key in [key for key, entry in self._open.items() if last and entry is base]:
                del self._open[key]
        return last

    def standing(self) -> dict[Key, int]:
        """How many stand on each that is open."""
        with self._lock:
            return {key: base.standing for key, base in self._open.items()}
