"""The peers of the studio's benchmark: Gradio's dataframe, Label Studio and doccano, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Sequence
from http.cookiejar import CookieJar
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from studio_browser import PATIENCE_MS, probe_keys

_GRADIO = """
import csv, sys
import gradio
with open(sys.argv[1], newline="") as file:
    rows = list(csv.reader(file))
with gradio.Blocks() as page:
    gradio.Dataframe(value=rows[1:], headers=rows[0], interactive=False, show_search="search", max_height=700)
page.launch(server_name="127.0.0.1", server_port=int(sys.argv[2]), quiet=True)
"""
_START_S = 300


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Peer(ABC):
    """A peer's program, which serves a page."""

    name: str
    package: str

    def __init__(self, python: Path, folder: Path) -> None:
        self._python = python
        self._folder = Path(tempfile.mkdtemp(dir=folder, prefix=f"{self.name}-"))
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self.version = f"{self.package} {self._installed()}"

    def _installed(self) -> str:
        words = f"import importlib.metadata as m; print(m.version({self.package!r}))"
        return subprocess.run([self._python, "-c", words], check=True, capture_output=True, text=True).stdout.strip()

    @property
    def environment(self) -> dict[str, str]:
        """Of its processes: nothing of it is kept outside its folder."""
        return {**os.environ, "HOME": str(self._folder), "PYTHONPATH": ""}

    @abstractmethod
    def start(self) -> None:
        """Begin to serve."""

    def launch(self, *command: str | Path) -> None:
        """Begin a process of it."""
        log = (self._folder / f"log{len(self._processes)}").open("wb")
        self._processes.append(
            subprocess.Popen(
                command, cwd=self._folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        )

    def run(self, *command: str | Path) -> None:
        """Run a command of it to its end."""
        subprocess.run(command, cwd=self._folder, env=self.environment, check=True, capture_output=True)

    def wait(self, path: str = "/") -> None:
        """Wait until it answers."""
        end = time.monotonic() + _START_S
        while True:
            try:
                with urllib.request.urlopen(self.url + path, timeout=20):
                    return
            except OSError as error:
                if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                    return
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class GradioTable(Peer):
    """The rows of a CSV file in Gradio's dataframe."""

    name = package = "gradio"
    cell = "[role=grid] td, .table-wrap tbody td, .tbody td, [data-row] "

    def __init__(self, python: Path, rows: Path, folder: Path) -> None:
        super().__init__(python, folder)
        self._rows = rows

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "GRADIO_ANALYTICS_ENABLED": "False"}

    def start(self) -> None:
        self.launch(self._python, "-c", _GRADIO, self._rows, str(self.port))
        self.wait()


class WebPeer(Peer):
    """A peer in which people label texts."""

    @abstractmethod
    def import_texts(self, texts: Sequence[str], labels: Sequence[str]) -> float:
        """Seconds that texts take to come into a project of it, by its own API."""

    @abstractmethod
    def open_page(self, page: Any, person: int) -> Any:
        """The page on which a person labels; time is taken from the key that `press` presses last."""

    @abstractmethod
    def press(self, page: Any) -> None:
        """Choose a label and go on."""


class LabelStudio(WebPeer):
    """Label Studio on SQLite, as its own command starts it."""

    name, package = "label_studio", "label-studio"

    def start(self) -> None: ...

    def import_texts(self, texts: Sequence[str], labels: Sequence[str]) -> float: ...

    def open_page(self, page: Any, person: int) -> Any: ...

    def press(self, page: Any) -> None: ...


class Doccano(WebPeer):
    """doccano on SQLite, with one worker for its imports, as its own commands start them."""

    name = package = "doccano"

    def start(self) -> None: ...

    def import_texts(self, texts: Sequence[str], labels: Sequence[str]) -> float: ...

    def open_page(self, page: Any, person: int) -> Any: ...

    def press(self, page: Any) -> None: ...
