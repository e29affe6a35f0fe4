"""Another server program beside this one: started on a free port of this machine, waited for, ended with its model."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from luthier.core.errors import MissingExtra, ModelError, Where

_LOOK_EVERY_S = 0.1


class Neighbour:
    """A server program and the folder with what it reads."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="luthier.serve.")
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Path(self._folder.name)
        """For the model's files; gone when it is closed."""
        self.port = _free_port()

    @property
    def root(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, words: Sequence[str], wait_s: float) -> None:
        """Start it and wait until it is healthy; `ModelError` with its own last words when it is not."""
        log = self.folder / "log"
        with log.open("wb") as file:
            self._process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)  # noqa: S603
        end = time.monotonic() + wait_s
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > end:
                said = log.read_bytes()[-400:].decode("utf-8", "replace").strip().rpartition("\n")[2]
                self.close()
                what = f"{Path(words[0]).name} did not begin to answer: {said or 'it said nothing'}"
                raise ModelError(what, remedy="start it by hand to see what it says")
            time.sleep(_LOOK_EVERY_S)

    def _healthy(self) -> bool:
        import httpx

        try:
            return httpx.get(f"{self.root}/health", timeout=2, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        """End it, in order if it will."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._folder.cleanup()


def program(name: str, remedy: str) -> str:
    """Where a program is; `MissingExtra` when it is not installed."""
    found = shutil.which(name)
    if found is None:
        raise MissingExtra(f"the program {name!r} is not installed", where=Where(field="program"), remedy=remedy)
    return found


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
