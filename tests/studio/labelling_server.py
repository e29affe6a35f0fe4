"""A studio in a process of its own in which a cookie says who somebody is.

`python -m tests.studio.labelling_server FOLDER PORT`, in the root of the repository, starts one.

Tests and `benchmarks/studio.py` let six people label with it on one machine, where the studio itself knows one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request

from luthier.core.db import Ledger
from luthier.studio import server
from luthier.studio.people import Person, find_person
from luthier.studio.sessions import BrowserSessions
from luthier.studio.state import Studio

_ROOT = Path(__file__).parent.parent.parent
PERSON = "person"
"""The cookie that names who makes a request."""


class LabellingServer:
    """The process; it can be killed, and started again at the same address."""

    def __init__(
        self, workspace: Path, *, environment: dict[str, str] | None = None,
        popen: type[subprocess.Popen[Any]] = subprocess.Popen,
    ) -> None:  # fmt: skip
        """`environment` adds to that of the process, and `popen` starts it."""
        self._popen = popen
        self._workspace = workspace
        self._environment = {**os.environ, **(environment or {})}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.studio.labelling_server", str(self._workspace), str(self.port)]
        path = os.pathsep.join([str(_ROOT), *sys.path])
        return self._popen(command, env={**self._environment, "PYTHONPATH": path})

    def kill(self) -> None:
        """As a power cut ends it: at once."""
        self.process.send_signal(signal.SIGKILL)
        self.close()

    def stop(self) -> None:
        """End it in order."""
        self.process.terminate()
        self.close()

    def close(self) -> None:
        """Wait for its end."""
        self.process.wait(30)

    def start_again(self) -> None:
        """Once more, at the same address."""
        self.process = self._start()

    def wait(self, seconds: float = 60) -> None:
        """Wait until it answers."""
        end = time.monotonic() + seconds
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise
                time.sleep(0.05)


def open_session(ledger: Ledger) -> str:
    """The cookie of a session, made as a link makes it."""
    sessions = BrowserSessions(ledger)
    cookie = sessions.open(sessions.create_link_token())
    assert cookie is not None, "the token was not used before"
    return cookie


def _find_named_person(request: Request) -> Person:
    name = request.cookies.get(PERSON, "nobody")
    return find_person(request)._replace(id=name, name=name)


def _main() -> None:
    """Serve until told to stop."""
    from luthier.recipe.workspace import Workspace
    from luthier.serve.server import ServerSettings

    build = server.build_app

    def build_for_people(studio: Studio) -> FastAPI:
        app = build(studio)
        app.dependency_overrides[find_person] = _find_named_person
        return app

    server.build_app = build_for_people  # type: ignore[assignment]  # it has one argument less, which no caller gives
    workspace, settings = Workspace.open(Path(sys.argv[1])), ServerSettings(host="127.0.0.1", port=int(sys.argv[2]))
    server.run_studio(workspace, settings, lambda address: None)


if __name__ == "__main__":
    _main()
