"""Running the studio: it listens on this machine alone, prints a link that opens it once, and stops in order."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from luthier.core.errors import InputError, SourceLocation
from luthier.recipe.workspace import Workspace
from luthier.serve.server import ServerSettings, bind, is_loopback
from luthier.studio.app import build_app
from luthier.studio.state import Studio

_GRACE_S = 2


@dataclass(frozen=True, kw_only=True)
class StudioAddress:
    """Where the studio listens."""

    url: str
    link: str
    """Opens it once, in one browser."""


def run_studio(workspace: Workspace, settings: ServerSettings, tell: Callable[[StudioAddress], None]) -> None:
    """Serve the projects of a workspace until told to stop; `InputError` beyond this machine."""
    if not is_loopback(settings.host):
        hint = "open it from elsewhere by `ssh -L 8100:127.0.0.1:8100 MACHINE`, and keep --host 127.0.0.1"
        what = f"{settings.host} is reachable from other machines, and the studio has no user accounts"
        raise InputError(what, where=SourceLocation(field="--host"), hint=hint)
    bound = bind(settings)
    try:
        with workspace.open_ledger() as ledger:
            serve_studio(Studio(ledger=ledger, workspace=workspace), bound, tell)
    finally:
        bound.close()


def serve_studio(studio: Studio, bound: socket.socket, tell: Callable[[StudioAddress], None]) -> None:
    """Serve on a socket until told to stop; `tell` hears where, once requests are taken."""
    host, port = bound.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    config = uvicorn.Config(
        build_app(studio), ws="none", log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )  # fmt: skip
    bound.listen()  # whoever follows the link at once waits a moment instead of being refused
    tell(StudioAddress(url=url, link=f"{url}/open?token={studio.sessions.create_link_token()}"))
    _Server(config).run(sockets=[bound])


class _Server(uvicorn.Server):
    """Uvicorn's server, for which a signal to stop is no failure."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take signals as a wish to stop; nothing is raised again afterwards."""
        loop = asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(one, self.handle_exit, one, None)
        try:
            yield
        finally:
            for one in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(one)
