"""A site's earlier answers about its rows, so that no two answers reveal one row by their difference.

For the same rows, each kind of query has one answer: repeated, it returns the same numbers, noise included, and a
different query of the kind is refused. For other rows, a query is answered only where enough rows differ from those of
each earlier answer.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from luthier.core.files import write_atomically
from luthier.core.hashing import digest_of

FOLDER = "questions"
_ID_BYTES = 12


class SiteAnswer(NamedTuple):
    """A site's answer before masking."""

    numbers: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


class AnswerHistory:
    """The answers that a site gave, in a folder of its own."""

    def __init__(self, folder: Path, secret: bytes) -> None:
        """`secret` is known to the site alone: what is kept of rows tells nothing to others."""
        self._folder, self._secret = folder / FOLDER, secret

    def find_rows(self, ids: Iterable[str], least: int) -> str | None:
        """A name for rows, by which their answers are kept; that of earlier rows, where they are the same. None where
        they differ by fewer than `least` rows from those of an earlier answer."""
        own = {hmac.new(self._secret, row.encode(), hashlib.sha256).hexdigest()[: 2 * _ID_BYTES] for row in ids}
        for path in sorted(self._folder.glob("*.rows")):
            apart = own ^ set(path.read_text(encoding="ascii").split())
            if not apart:
                return path.stem
            if len(apart) < least:
                return None
        name = digest_of(sorted(own))[:16]
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / f"{name}.rows", "\n".join(sorted(own)).encode())
        (self._folder / f"{name}.rows").chmod(0o600)
        return name

    def find_window(self, since: int, until: int) -> str | None:
        """A name for the requests of a window of time; None where the window shares seconds with another one that was
        answered."""
        for path in self._folder.glob("*.window"):
            begin, end = map(int, path.stem.split("-"))
            if (begin, end) != (since, until) and begin < until and since < end:
                return None
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / f"{since}-{until}.window").touch()
        return f"{since}-{until}"

    def find(self, rows: str, what: str, question: str) -> tuple[SiteAnswer | None, bool]:
        """The answer to a kind of question about rows, and whether it was this question (by its digest)."""
        path = self._path(rows, what)
        if not path.is_file():
            return None, True
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return SiteAnswer(tuple(kept["numbers"]), tuple(kept["names"])), kept["question"] == question

    def keep(self, rows: str, what: str, question: str, answer: SiteAnswer) -> None:
        """Keep an answer, before it leaves."""
        self._folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"question": question, **answer._asdict()}, ensure_ascii=False)
        path = self._path(rows, what)
        write_atomically(path, text.encode())
        path.chmod(0o600)

    def _path(self, rows: str, what: str) -> Path:
        return self._folder / f"{rows}-{what}.json"
