"""Running the studio: it listens on this machine alone while there are no accounts, prints a link that opens it, and
stops in order."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import uvicorn

from luthier.core.errors import InputError, SourceLocation
from luthier.people.accounts import has_accounts
from luthier.people.oidc import OidcProvider, OidcSettings
from luthier.recipe.workspace import Workspace
from luthier.serve.server import ServerSettings, bind_socket, is_loopback
from luthier.studio.app import build_app
from luthier.studio.security import StudioNames
from luthier.studio.state import Studio

_GRACE_S = 2


@dataclass(frozen=True, kw_only=True)
class StudioAddress:
    """Where the studio listens."""

    url: str
    link: str
    """Opens it once, in one browser; where there are accounts, the page to log in."""


def run_studio(
    workspace: Workspace,
    settings: ServerSettings,
    tell: Callable[[StudioAddress], None],
    *,
    url: str = "",
    oidc: OidcSettings | None = None,
) -> None:
    """Serve the projects of a workspace until told to stop; `url` is the address that others reach it by.

    `InputError` beyond this machine, behind an address, or with an OpenID provider while there are no accounts.
    """
    names = StudioNames(_check_url(url), beyond=not is_loopback(settings.host) and not url)
    with workspace.open_ledger() as ledger:
        if not has_accounts(ledger):
            _refuse_others(settings.host, url, oidc)
        studio = Studio(
            ledger=ledger, workspace=workspace, names=names, oidc=None if oidc is None else OidcProvider(oidc)
        )
        bound = bind_socket(settings)
        try:
            serve_studio(studio, bound, tell)
        finally:
            bound.close()


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if not url or (parts.scheme in ("http", "https") and parts.netloc and parts.path in ("", "/") and not parts.query):
        return url.rstrip("/")
    hint = "give scheme, name and port alone, such as https://studio.example"
    raise InputError(f"{url!r} is not an address of the studio", where=SourceLocation(field="--url"), hint=hint)


def _refuse_others(host: str, url: str, oidc: OidcSettings | None) -> None:
    """`InputError` where anybody but the user of this machine could come, and nobody has an account."""
    field = "--host" if not is_loopback(host) else "--url" if url else "--oidc" if oidc else ""
    if field:
        what = {"--host": f"{host} is reachable from other machines", "--url": f"{url} may be reached by others"}
        hint = "make the first account (`luthier people add NAME --owner`), or keep --host 127.0.0.1 and use "
        hint += "`ssh -L 8100:127.0.0.1:8100 MACHINE`"
        message = f"{what.get(field, 'nobody can be let in')}, and the studio has no user accounts"
        raise InputError(message, where=SourceLocation(field=field), hint=hint)


def serve_studio(studio: Studio, bound: socket.socket, tell: Callable[[StudioAddress], None]) -> None:
    """Serve on a socket until told to stop; `tell` hears where, once requests are taken."""
    host, port = bound.getsockname()[:2]
    url = studio.names.url or f"http://{f'[{host}]' if ':' in host else host}:{port}"
    config = uvicorn.Config(
        build_app(studio), ws="none", log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=_GRACE_S, proxy_headers=studio.names.is_secure,
    )  # fmt: skip
    bound.listen()  # whoever follows the link at once waits a moment instead of being refused
    page = "/login" if has_accounts(studio.ledger) else f"/open?token={studio.sessions.create_link_token()}"
    tell(StudioAddress(url=url, link=f"{url}{page}"))
    _Server(config).run(sockets=[bound])


class _Server(uvicorn.Server):
    """Uvicorn's server, for which a signal to stop is no failure."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take signals as a wish to stop; nothing is raised again afterwards."""
        loop = asyncio.get_running_loop()
        for signals in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signals, self.handle_exit, signals, None)
        try:
            yield
        finally:
            for signals in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(signals)
