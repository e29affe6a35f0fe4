"""API keys, rate limits and size limits of the gateway.

The middleware is plain ASGI in front of every route, so no part of a request is read before it is allowed. Keys are
read from the database every second: a revoked key stops working within that time. Requests never query the database,
and while it is unavailable the last known keys stay valid.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luthier.core.db import Ledger
from luthier.core.errors import LuthierError
from luthier.serve.openai.protocol import APIError, ServerBusyError
from luthier.traces.api_keys import Caller, KeyStore, load_key_store

OPEN = frozenset({"/health", "/ready"})
"""Paths without authentication."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_LINGER_BYTES, _LINGER_S = 1 << 30, 20.0
"""Bytes of an oversized body that are read and discarded, so that the client receives the error."""


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """Limits of one request."""

    body_bytes: int = 4_000_000
    """The largest body."""
    larger: Mapping[str, int] = field(default_factory=dict)
    """Larger ones, by how the path begins."""
    heads: int = 100
    """Maximum number of header lines."""
    head_bytes: int = 32_000
    body_wait_s: float = 30.0
    """Maximum seconds to wait for the next part of a body."""

    def of(self, path: str) -> int:
        """The largest body of a path."""
        return max([self.body_bytes, *(size for begin, size in self.larger.items() if path.startswith(begin))])


class AuthMiddleware:
    """Lets requests in, with their caller as `request.state.caller`."""

    def __init__(
        self, app: ASGIApp, *, ring: Callable[[], KeyStore], limits: RequestLimits, hosts: Iterable[str] | None
    ) -> None:
        """`hosts` are the names under which a gateway without keys may be asked, so that no web page reaches it by a
        name of its own; None: any."""
        self._app, self._ring, self._limits = app, ring, limits
        self._hosts = None if hosts is None else frozenset(hosts)
        self._buckets: dict[str, _Bucket] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check_head(scope)
            scope.setdefault("state", {})["caller"] = self._caller(scope)
            most = self._limits.of(scope["path"])
            body = _Body(receive, most, self._limits.body_wait_s)
            if _length(scope) > most:
                await body.refuse()
            await self._app(scope, body.receive, send)
        except APIError as refusal:
            await _say(refusal, send)
        except HTTPException as error:
            await _say(APIError(str(error.detail), status=error.status_code), send)

    def _check_head(self, scope: Scope) -> None:
        size = len(scope["raw_path"]) + len(scope["query_string"])
        size += sum(len(name) + len(value) for name, value in scope["headers"])
        if size > self._limits.head_bytes or len(scope["headers"]) > self._limits.heads:
            raise APIError("the head of the request is too large", status=431)

    def _caller(self, scope: Scope) -> Caller:
        """Return the caller; `APIError` without a valid key, or above the rate limit."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        ring = self._ring()
        if scope["path"] in OPEN:
            return Caller(key=None, scopes=frozenset())
        if not ring.key_required:
            self._check_host(headers.get("host", ""))
            return Caller(key=None)
        kind, _, key = headers.get("authorization", "").partition(" ")
        caller = ring.caller(key.strip()) if kind.lower() == "bearer" else None
        if caller is None:
            what = "this key opens nothing here" if key else "expected a key: `Authorization: Bearer lk-…`"
            raise APIError(what, code="invalid_api_key", status=401)
        self._count(caller)
        return caller

    def _check_host(self, host: str) -> None:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self._hosts is not None and name.lower() not in self._hosts:
            raise APIError("without keys, this gateway answers to the names of this machine only", status=403)

    def _count(self, caller: Caller) -> None:
        if caller.requests_per_minute is None or caller.key is None:
            return
        bucket = self._buckets.setdefault(caller.key, _Bucket(caller.requests_per_minute))
        wait_s = bucket.take(caller.requests_per_minute)
        if wait_s > 0:
            what = f"this key may ask {caller.requests_per_minute} times a minute"
            raise ServerBusyError(what, retry_after_s=wait_s)


class _Bucket:
    """A token bucket: a minute's requests at once, then at the rate."""

    def __init__(self, per_minute: int) -> None:
        self._left, self._at = float(per_minute), time.monotonic()

    def take(self, per_minute: int) -> float:
        """Take one; else how many seconds until there is one."""
        now = time.monotonic()
        self._left = min(float(per_minute), self._left + (now - self._at) * per_minute / 60)
        self._at = now
        if self._left < 1:
            return (1 - self._left) * 60 / per_minute
        self._left -= 1
        return 0.0


class _Body:
    """A body that is not too long and does not dawdle."""

    def __init__(self, receive: Receive, most: int, wait_s: float) -> None:
        self._receive, self._most, self._wait_s = receive, most, wait_s
        self._came, self._whole = 0, False

    async def receive(self) -> Message:
        """The next part; `HTTPException` (which all frameworks let through) when it is too much or too slow."""
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout(self._wait_s):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(408, "the body did not come in time") from error
        if message["type"] == "http.request":
            self._came += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._came > self._most:
                await self.refuse()
        return message

    async def refuse(self) -> None:
        """Discard the rest of the body, and return the error."""
        try:
            async with asyncio.timeout(_LINGER_S):
                while not self._whole and self._came < _LINGER_BYTES:
                    message = await self._receive()
                    self._came += len(message.get("body", b""))
                    self._whole = not message.get("more_body", False)
        except TimeoutError:
            pass  # whoever sends on and on need not hear why
        raise HTTPException(413, f"the body is too large: {self._most:,} bytes are read")


def _length(scope: Scope) -> int:
    length = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"0")
    return int(length) if length.isdigit() else 0


async def _say(refusal: APIError, send: Send) -> None:
    body = json.dumps(build_error_body(refusal)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in build_error_headers(refusal).items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def build_error_headers(refusal: APIError) -> dict[str, str]:
    """Return the headers of a refusal; the connection is closed after a refused body."""
    more = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
    if refusal.status in (408, 413, 431):
        more["Connection"] = "close"
    return {**refusal.headers, **more}


def build_error_body(refusal: APIError) -> dict[str, Any]:
    """A refusal in OpenAI's shape."""
    error = {"message": refusal.message, "type": refusal.type, "param": refusal.param, "code": refusal.code}
    return {"error": error}


_LOG = logging.getLogger("luthier.serve")
EVERY_S = 1.0


class KeyStoreRefresher:
    """Keeps the ring of keys fresh."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.ring = KeyStore({}, required=True)
        """Nobody comes in before the keys were read."""

    async def read(self) -> None:
        """Read the keys now."""
        self.ring = await asyncio.to_thread(load_key_store, self._ledger)

    async def run(self) -> None:
        """Read them again and again."""
        away = False
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.read()
                away = False
            except (LuthierError, OSError) as error:
                if not away:
                    _LOG.warning("keys cannot be read, those known hold on: %s", error)
                away = True
