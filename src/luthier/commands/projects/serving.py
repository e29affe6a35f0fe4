"""Serving a project's released models: `luthier serve` on a port, which goes on when the browser or the studio ends."""

from __future__ import annotations

from pathlib import Path

from luthier.commands.projects.command_process import CommandProcess, ProcessState
from luthier.core.errors import InputError
from luthier.recipe.workspace import Workspace
from luthier.traces.api_keys import list_keys

FIRST_PORT, LAST_PORT = 1024, 65535


class ProjectServer:
    """The server of one project: all that is released there is served, and every request is kept."""

    def __init__(self, workspace: Workspace, file: Path, folder: Path) -> None:
        """`folder` keeps what its process prints, and how it is found again."""
        self._workspace = workspace.with_folder(file.parent)
        self._process = CommandProcess(folder)

    @property
    def state(self) -> ProcessState:
        """How it stands."""
        return self._process.state

    @property
    def url(self) -> str:
        """The base URL that clients ask; empty while it is not ready."""
        return str(self._process.facts().get("url", "")) if self.state == "ready" else ""

    @property
    def models(self) -> list[str]:
        """The names that it answers to."""
        return [str(name) for name in self._process.facts().get("models", ())]

    @property
    def message(self) -> str:
        """What it said last."""
        return self._process.message

    @property
    def words(self) -> list[str]:
        """The command that was started."""
        return self._process.words

    def keys(self) -> list[str]:
        """Names of the keys that are asked for; none: whoever reaches the port may ask."""
        if not self._workspace.has_ledger():
            return []
        with self._workspace.open_ledger() as ledger:
            return [key.name for key in list_keys(ledger) if key.revoked_at is None]

    def start(self, port: str) -> None:
        """Serve on a port of this machine; nothing happens where it serves already."""
        if self.state in ("starting", "ready"):
            return
        if not port.isdigit() or len(port) > 5 or not FIRST_PORT <= int(port) <= LAST_PORT:
            raise InputError(f"expected a port, got {port[:20]!r}", hint=f"a number from {FIRST_PORT} to {LAST_PORT}")
        self._process.start(self._workspace, ["serve", "--port", port, "--no-jobs", "--json"])

    def stop(self) -> None:
        """End it, once it has answered what was asked."""
        self._process.stop()
