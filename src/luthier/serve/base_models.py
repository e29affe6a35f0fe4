"""Base models shared by several adapters: each is loaded once, and freed with its last user."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar


class SharedBase:
    """A shared base model."""

    standing = 0
    """Number of its users."""


Key = TypeVar("Key", bound=Hashable)
Kind = TypeVar("Kind", bound=SharedBase)


class SharedBasePool(Generic[Key, Kind]):
    """A pool of loaded base models that several adapters share, with reference counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Key, Kind] = {}

    def stand(self, key: Key, opened: Callable[[], Kind]) -> Kind:
        """Return the base of a key with one more user; it is loaded for the first."""
        with self._lock:
            if key not in self._open:
                self._open[key] = opened()
            base = self._open[key]
            base.standing += 1
            return base

    def leave(self, base: Kind) -> bool:
        """Remove a user of a base; True when it was the last."""
        with self._lock:
            base.standing -= 1
            last = not base.standing
            for key in [key for key, entry in self._open.items() if last and entry is base]:
                del self._open[key]
        return last

    def standing(self) -> dict[Key, int]:
        """Return the number of users of each loaded base."""
        with self._lock:
            return {key: base.standing for key, base in self._open.items()}
