"""Cache of what models found in texts and media, kept from run to run.

A text or a medium is known by its keyed digest; of what was found, only places and kinds are written down, so that
nothing of it stands in the file.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import finalize

from luthier.pii.hmac_key import HmacKey
from luthier.pii.span import PiiSpan

Recognise = Callable[[Sequence[str]], list[list[PiiSpan]]]
_TOGETHER = 16
"""Texts that are read and put down together: no more are lost when a run is killed."""
_BUSY_S = 60.0
_TABLE = "CREATE TABLE IF NOT EXISTS found (text BLOB PRIMARY KEY, names TEXT NOT NULL) WITHOUT ROWID"


class FindingsFile:
    """A file of findings under keys of 16 bytes, for any number of processes; what cannot be read or kept there is
    found anew."""

    def __init__(self, path: Path, hmac_key: HmacKey) -> None:
        self._path = path
        self._hmac_key = hmac_key
        self._file = self._opened()
        if self._file is not None:
            finalize(self, self._file.close)

    def read(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """What is kept under each key; keys that are not there, or whose value is damaged, are left out."""
        return dict(self._known(keys))

    def write(self, findings: Mapping[bytes, str]) -> None:
        """Keep findings under their keys."""
        if self._file is None:
            return
        held = [(key, f"{self._tag(key, text)} {text}") for key, text in findings.items()]
        with suppress(sqlite3.DatabaseError):  # a full disk, or damage: it will be found anew
            self._file.executemany("INSERT OR REPLACE INTO found VALUES (?, ?)", held)

    def _opened(self) -> sqlite3.Connection | None:
        """The file; None where there can be none."""
        with suppress(OSError, sqlite3.DatabaseError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return _connected(self._path)
            except sqlite3.OperationalError:  # read-only, full, or locked by another process, whose file it stays
                return None
            except sqlite3.DatabaseError:  # damaged: nothing is lost but time
                for end in ("", "-wal", "-shm"):
                    self._path.with_name(self._path.name + end).unlink(missing_ok=True)
                return _connected(self._path)
        return None

    def _known(self, keys: Sequence[bytes]) -> Iterator[tuple[bytes, str]]:
        if self._file is None:
            return
        with suppress(sqlite3.DatabaseError):  # what cannot be read is found anew
            for key in keys:
                for (held,) in self._file.execute("SELECT names FROM found WHERE text = ?", (key,)):
                    tag, _, text = str(held).partition(" ")
                    if tag == self._tag(key, text):
                        yield key, text

    def _tag(self, key: bytes, text: str) -> str:
        """Tells what was written from what a damaged disk has made of it."""
        return self._hmac_key.tag(f"{key.hex()} {text}")


class PiiFindingsCache:
    """Names that a recogniser found in texts before; texts that are not there are read."""

    def __init__(self, path: Path, hmac_key: HmacKey, recognise: Recognise) -> None:
        self._hmac_key = hmac_key
        self._recognise = recognise
        self._file = FindingsFile(path, hmac_key)

    def __call__(self, texts: Sequence[str]) -> list[list[PiiSpan]]:
        """What the recogniser finds in each text; texts that it has read before are not read again."""
        keys = {text: self._hmac_key.digest(text)[:16] for text in texts}
        known: dict[bytes, list[Any]] = {
            key: json.loads(names) for key, names in self._file.read(list(keys.values())).items()
        }
        new = [text for text, key in keys.items() if key not in known]
        for start in range(0, len(new), _TOGETHER):
            some = new[start : start + _TOGETHER]
            found = {keys[text]: names for text, names in zip(some, self._recognise(some), strict=True)}
            new_spans = {key: [[name.start, name.end, name.kind] for name in names] for key, names in found.items()}
            self._file.write({key: json.dumps(names) for key, names in new_spans.items()})
            known |= new_spans
        return [
            [PiiSpan(start, end, kind, text[start:end]) for start, end, kind in known[keys[text]]] for text in texts
        ]


def _connected(path: Path) -> sqlite3.Connection:
    file = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", _TABLE):
            file.execute(statement).close()
    except sqlite3.DatabaseError:
        file.close()
        raise
    return file
