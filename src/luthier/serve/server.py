"""Running the gateway: it opens its models, listens, and stops in order, finishing what was begun."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from luthier.core.errors import InputError, SourceLocation
from luthier.serve.app import ExtraRoutes, build_app
from luthier.serve.auth import LOOPBACK, KeyStoreRefresher, RequestLimits
from luthier.serve.openai.server import Gateway

_HEAD_S = 30.0
"""Maximum seconds to receive the head of a request."""
_HEAD_BYTES = 64 * 1024
_KEEP_ALIVE_S = 15
_CONNECTIONS = 2048
_LOG = logging.getLogger("luthier.serve")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Address and limits of the gateway."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes any that is free."""
    grace_s: float = 30.0
    """Seconds to finish running requests when the server stops."""


@dataclass(frozen=True, kw_only=True)
class ListeningServer:
    """The listening address."""

    url: str
    host: str
    port: int
    models: list[str]
    stop: Callable[[], None]
    """Ends it in order, as a signal does; it may be called from any thread."""


async def run_gateway(
    gateway: Gateway,
    models: Sequence[str],
    settings: ServerSettings,
    watch: KeyStoreRefresher,
    *,
    limits: RequestLimits | None = None,
    extra_routes: ExtraRoutes | None = None,
    tell: Callable[[ListeningServer], None],
) -> bool:
    """Serve until stopped (SIGTERM, Ctrl-C); False when requests were cut off after the grace period or a second
    signal.
    """
    await watch.read()
    inside = is_loopback(settings.host)
    if not inside and not watch.ring.key_required:
        hint = "make a key first: `luthier keys add NAME`"
        raise InputError(
            f"{settings.host} can be reached from elsewhere", where=SourceLocation(field="--host"), hint=hint
        )
    bound = bind_socket(settings)
    try:
        for model in models:
            await gateway.fleet.prepare(model)
        watching = asyncio.create_task(watch.run())
        hosts = LOOPBACK if inside else None
        app = build_app(gateway, ring=lambda: watch.ring, limits=limits, extra_routes=extra_routes, hosts=hosts)
        server = _Server(_config(app, settings), gateway)
        try:
            return await server.listen(bound, lambda: tell(_listening(bound, server)))
        finally:
            watching.cancel()
    finally:
        bound.close()
        await gateway.close()


def _config(app: Any, settings: ServerSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Punctual,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.grace_s)),
    )


class _Server(uvicorn.Server):
    """Uvicorn's server, which stops as this program does."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self.gateway = gateway

    async def listen(self, bound: socket.socket, started: Callable[[], None]) -> bool:
        """Serve; `started` is called once requests are taken."""
        serving = asyncio.create_task(self.serve(sockets=[bound]))
        while not (self.started or serving.done()):
            await asyncio.sleep(0.01)
        if self.started:
            started()
        await serving
        return not (self.force_exit or self.gateway.cut_off)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the first signal as a wish to stop in order, the second as an order to stop at once."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
        for entry in signals:
            loop.add_signal_handler(entry, self.stop)
        try:
            yield
        finally:
            for entry in signals:
                loop.remove_signal_handler(entry)

    def stop(self) -> None:
        """Accept nothing new and finish running requests; on a second call, end at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self.gateway.ready = False


class _Punctual(H11Protocol):
    """Connections on which no whole request comes in time are closed: partial heads hold no place for long."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._look = self.loop.call_later(_HEAD_S, self._look_again, None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        super().connection_lost(exc)

    def _look_again(self, before: Any) -> None:
        """Close when nothing was asked since the last look (`before` is the request of that time, when over)."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.cycle is before:
            self.transport.close()
            return
        self._look = self.loop.call_later(_HEAD_S, self._look_again, self.cycle if idle else self)


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable from this machine only."""
    return host in ("127.0.0.1", "localhost", "::1")


def bind_socket(settings: ServerSettings) -> socket.socket:
    """A socket at the address; `InputError` where it is taken or not of this machine."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sends at once on such sockets only
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
    except OSError as error:
        bound.close()
        where = SourceLocation(field="--port" if error.errno == 98 else "--host")
        what = f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
        raise InputError(what, where=where, hint="take another --port, or 0 for any that is free") from error
    return bound


def _listening(bound: socket.socket, server: _Server) -> ListeningServer:
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    loop = asyncio.get_running_loop()

    def stop() -> None:
        with suppress(RuntimeError):  # its loop is closed: it has stopped already
            loop.call_soon_threadsafe(server.stop)

    models = server.gateway.names()
    return ListeningServer(url=f"http://{shown}:{port}/v1", host=host, port=port, models=models, stop=stop)
