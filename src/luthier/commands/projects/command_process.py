"""A command started by the studio: it may outlive the studio, and is found again by its name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from luthier.commands.jobs.process import signal_process_group
from luthier.core.files import translate_write_errors, write_atomically
from luthier.core.system.process import is_process_gone, python_command, unique_process_name_of
from luthier.recipe.workspace import Workspace

ProcessState = Literal["off", "starting", "ready", "failed"]
_PATIENCE_S = 10.0
_OUTPUT, _LOG, _MARK = "output", "log", "process"


class CommandProcess:
    """One `luthier` command in a session of its own; a folder has its name, its arguments and its output."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, workspace: Workspace, words: Sequence[str]) -> None:
        """Start it in a workspace's folder; what ran before ends."""
        self.stop()
        with translate_write_errors(self.folder):
            self.folder.mkdir(0o700, parents=True, exist_ok=True)
            with (self.folder / _OUTPUT).open("wb") as output, (self.folder / _LOG).open("wb") as log:
                child = subprocess.Popen(  # noqa: S603  # this very program
                    python_command("-m", "luthier", *words), stdin=subprocess.DEVNULL, stdout=output,
                    stderr=log, start_new_session=True, cwd=workspace.folder,
                    env={**os.environ, **workspace.environment},
                )  # fmt: skip
        mark = {"name": unique_process_name_of(child.pid), "words": list(words)}
        write_atomically(self.folder / _MARK, json.dumps(mark).encode())
        threading.Thread(target=child.wait, daemon=True).start()  # so that nothing is left of it once it is over

    @property
    def words(self) -> list[str]:
        """Its arguments; empty where it was stopped, or never started."""
        return list(self._mark().get("words", ()))

    @property
    def is_running(self) -> bool:
        """Whether it is running."""
        name = self._mark().get("name")
        return isinstance(name, str) and not is_process_gone(name)

    @property
    def state(self) -> ProcessState:
        """Its state; ready once it has printed a line of JSON."""
        if not self._mark():
            return "off"
        if not self.is_running:
            return "failed"
        return "ready" if self.facts() else "starting"

    @property
    def message(self) -> str:
        """Its last message."""
        try:
            lines = (self.folder / _LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except FileNotFoundError:
            lines = []
        return " ".join(lines[-2:])[:600] if lines else "it ended without a word"

    def facts(self) -> dict[str, Any]:
        """Its first output, as JSON; empty before that."""
        return _read_json(self.folder / _OUTPUT)

    def stop(self) -> None:
        """End it, in order if it will."""
        name = self._mark().get("name")
        if isinstance(name, str):
            signal_process_group(name, signal.SIGTERM)
            if not _has_ended(name):
                signal_process_group(name, signal.SIGKILL)
                _has_ended(name)
        (self.folder / _MARK).unlink(missing_ok=True)

    def _mark(self) -> dict[str, Any]:
        return _read_json(self.folder / _MARK)


def _has_ended(name: str) -> bool:
    """Return whether it ends within some seconds."""
    until = time.monotonic() + _PATIENCE_S
    while not is_process_gone(name) and time.monotonic() < until:
        time.sleep(0.02)
    return is_process_gone(name)


def _read_json(path: Path) -> dict[str, Any]:
    """The first line of a file as JSON; nothing where it holds none."""
    try:
        found = json.loads(path.read_bytes().partition(b"\n")[0])
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
