"""Answers kept by the content of what was asked, so that nobody is asked the same twice.

What is kept together was asked together: a number never depends on which of its neighbours were known before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from luthier.core.digest import canonical, digest_of
from luthier.core.files import write_aside
from luthier.core.revision import revision

_CODE = tuple(f"luthier.eval.{name}" for name in ("ask", "question", "remote", "respondent", "tell", "voice"))


class Kept:
    """A folder of answers, by whoever gave them to what."""

    made: int = 0
    """How many answers were made rather than read."""
    seconds: float = 0.0
    """How long that took."""
    cpu_s: float = 0.0
    """And how long processors were busy with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._by = digest_of([revision(*_CODE), version("torch"), version("transformers")])

    def or_made(self, asked: Any, make: Callable[[], list[Any]]) -> list[Any]:
        """The answers to what is asked of whom (a JSON value): those that are kept, else made, and kept."""
        path = self._folder / f"{digest_of([self._by, asked])}.json"
        known = _read(path) if path.is_file() else None
        if known is None:
            started, started_cpu = time.perf_counter(), time.process_time()
            known = make()
            self.seconds += time.perf_counter() - started
            self.cpu_s += time.process_time() - started_cpu
            self.made += len(known)
            write_aside(path, canonical(known).encode())
        return known


def _read(path: Path) -> list[Any] | None:
    """What a file holds; None when it is not whole, so that it is made anew."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return told if isinstance(told, list) else None
