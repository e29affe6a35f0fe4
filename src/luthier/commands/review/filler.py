"""Open queues are filled again and again while the studio runs, by a process of its own: it may load what pages do
not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from luthier.commands.review.queues import list_review_queues
from luthier.core.db import Ledger
from luthier.core.files import translate_write_errors
from luthier.recipe.workspace import Workspace

EVERY_S = 300.0


class ReviewFiller:
    """Starts `luthier review fill` every five minutes while a queue is open, one at a time."""

    def __init__(self, ledger: Ledger, workspace: Workspace, folder: Path) -> None:
        self._ledger, self._workspace, self._log = ledger, workspace, folder / "review.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._due = time.monotonic()

    @property
    def is_filling(self) -> bool:
        """Whether a fill is under way."""
        return self._process is not None and self._process.poll() is None

    def advance(self) -> None:
        """Begin a fill where it is time for one."""
        if not self.is_filling and time.monotonic() >= self._due:
            self._due = time.monotonic() + EVERY_S
            if list_review_queues(self._ledger, only_open=True):
                self.start()

    def start(self) -> None:
        """Begin a fill now, unless one is under way."""
        if self.is_filling:
            return
        with translate_write_errors(self._log):
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(  # this very program
                    [sys.executable, "-P", "-m", "luthier", "review", "fill"],
                    cwd=self._workspace.folder.absolute(),
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    env={**os.environ, **self._workspace.environment},
                )  # fmt: skip

    def close(self) -> None:
        """End a fill that is under way: what it did is kept, and the next goes on."""
        if self._process is not None and self.is_filling:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
