"""What stands in front of every page: host, origin, size and session are checked before anything of a request is read,
and every answer carries a strict content security policy."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import FormData, Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luthier.core.errors import LuthierError
from luthier.serve.auth import LOOPBACK
from luthier.studio.sessions import COOKIE, BrowserSessions, form_token

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SAFE = frozenset({"GET", "HEAD"})
OPEN = frozenset({"/health", "/open"})
"""Addresses that need no session; so do those under /static/."""
_FORM_BYTES = 4 << 20
_MOST_FIELDS = 200
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class StudioGuard:
    """Lets requests of the studio's own pages in."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        sessions: BrowserSessions,
        upload_bytes: int,
        uploads: frozenset[str],
        closed: Callable[[], Response],
    ) -> None:
        """`uploads` are the paths that take files; `closed` is the answer to a browser without a session."""
        self._app, self._sessions, self._closed = app, sessions, closed
        self._upload_bytes, self._uploads = upload_bytes, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            refusal = await self._refusal(scope)
        except LuthierError as error:
            refusal = PlainTextResponse(f"The studio's database {error.message}. Try again in a moment.", 503)
        most = self._upload_bytes + _FORM_BYTES if scope["path"] in self._uploads else _FORM_BYTES
        answer = self._app if refusal is None else refusal
        await answer(scope, _limited(receive, most), _with_headers(send))

    async def _refusal(self, scope: Scope) -> Response | None:
        """Why a request is not let in; None where it is."""
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name.lower() not in LOOPBACK:
            return PlainTextResponse("The studio answers to the names of this machine only.", 403)
        if scope["method"] not in SAFE and not _is_own(headers, host):
            return PlainTextResponse("This form was sent from another page.", 403)
        cookie = _cookie(headers)
        scope.setdefault("state", {})["cookie"] = cookie
        scope["state"]["token"] = form_token(cookie)
        if path in OPEN or path.startswith("/static/"):
            return None
        return None if await asyncio.to_thread(self._sessions.is_open, cookie) else self._closed()


def _is_own(headers: Headers, host: str) -> bool:
    """Whether a request that changes something comes from a page of this very address."""
    return headers.get("origin") == f"http://{host}" and headers.get("sec-fetch-site", "same-origin") == "same-origin"


def _cookie(headers: Headers) -> str:
    """The session's cookie; nothing where it comes twice, as one that was planted would."""
    texts = headers.getlist("cookie")
    try:
        parts = [part.strip() for text in texts for part in text.split(";")]
        own = [SimpleCookie(part)[COOKIE].value for part in parts if part.startswith(f"{COOKIE}=")]
    except (CookieError, KeyError):
        return ""
    return own[0] if len(own) == 1 else ""


def _limited(receive: Receive, most: int) -> Receive:
    """The body, as long as it is not too long."""
    came = 0

    async def take() -> Message:
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        if came > most:
            raise HTTPException(413, f"more than {most:,} bytes were sent")
        return message

    return take


def _with_headers(send: Send) -> Send:
    """Every answer with the headers that keep other pages and scripts out."""

    async def begin(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.setdefault("content-security-policy", POLICY)
            headers.setdefault("cache-control", "no-store")
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return begin


async def read_form(request: Request) -> AsyncIterator[FormData]:
    """The form of a request, once it carries the session's own token; 403 else."""
    async with request.form(max_files=1, max_fields=_MOST_FIELDS, max_part_size=_FORM_BYTES) as form:
        given = form.get("token")
        if not isinstance(given, str) or not hmac.compare_digest(given.encode(), request.state.token.encode()):
            raise HTTPException(403, "This form is not of this session: load the page again.")
        yield form
