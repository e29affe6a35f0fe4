"""What stands in front of every page: host, origin, size and session are checked before anything of a request is read,
and every answer carries a strict content security policy."""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from starlette.datastructures import FormData, Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luthier.core.db import Ledger
from luthier.core.errors import LuthierError
from luthier.people.audit import record_audit
from luthier.serve.auth import LOOPBACK
from luthier.studio.sessions import COOKIE, LIFE, BrowserSessions, form_token
from luthier.studio.translation import choose_language, use_language
from luthier.studio.translation import gettext as _

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SAFE = frozenset({"GET", "HEAD"})
OPEN = frozenset({"/health", "/open", "/oidc/login", "/oidc/return", "/language"})
"""Addresses that need no session; those under /static/ need none either, nor do the next ones."""
FORMS = ("/login", "/invite/")
"""How addresses begin whose forms are filled in before there is a session."""
LOGIN_COOKIE = "luthier_login"
"""What binds a form, or a login at an OpenID provider, to the browser that began it."""
_OWN_PATH = re.compile(r"/(?:[!-.0-\[\]-~][!-\[\]-~]*)?")
"""Signs of an address, no backslash among them, which some browsers read as a slash, and no second slash first."""
_FORM_BYTES = 4 << 20
_MOST_FIELDS = 200
_RECHECK_S = 10.0
"""How often the session of a stream is looked at again."""
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True)
class StudioNames:
    """Under which addresses browsers reach the studio."""

    url: str = ""
    """The public one, such as `https://studio.example`; whatever answers there passes requests on."""
    beyond: bool = False
    """Whether it listens beyond this machine: it answers to this machine's addresses and host name, too."""

    @property
    def is_secure(self) -> bool:
        """Whether cookies are for encrypted connections alone."""
        return self.url.startswith("https://")

    def know(self, host: str) -> bool:
        """Whether a `Host` is one of the studio's: no page reaches it by a name of its own."""
        name = _name(host)
        if name in LOOPBACK or (self.url and name == _name(urlsplit(self.url).netloc)):
            return True
        return self.beyond and (_is_address(name) or name in {socket.gethostname().lower(), socket.getfqdn().lower()})

    def origin(self, host: str) -> str:
        """What a page at a `Host` gives as its origin."""
        parts = urlsplit(self.url)
        return (
            f"{parts.scheme}://{parts.netloc}" if self.url and _name(host) == _name(parts.netloc) else f"http://{host}"
        )


def _name(host: str) -> str:
    return (host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host).lower()


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


class Closed(Protocol):
    """What a browser without a session is answered."""

    def __call__(self, scope: Scope, *, accounts: bool) -> Response:
        """The answer; `accounts` says whether people log in here."""


class StudioGuard:
    """Lets requests of the studio's own pages in, says who makes them, and writes down what they changed."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        ledger: Ledger,
        sessions: BrowserSessions,
        names: StudioNames,
        upload_bytes: int,
        uploads: frozenset[str],
        closed: Closed,
    ) -> None:
        """`uploads` are the paths that take files; `closed` is the answer to a browser without a session."""
        self._app, self._ledger, self._sessions, self._names, self._closed = app, ledger, sessions, names, closed
        self._upload_bytes, self._uploads = upload_bytes, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        use_language(choose_language(Request(scope)))
        try:
            refusal = await self._refusal(scope)
        except LuthierError as error:
            refusal = PlainTextResponse(f"The studio's database {error.message}. Try again in a moment.", 503)
        most = self._upload_bytes + _FORM_BYTES if scope["path"] in self._uploads else _FORM_BYTES
        answer = self._app if refusal is None else refusal
        await answer(scope, self._until_revoked(scope, _limited(receive, most)), self._answering(scope, send))

    async def _refusal(self, scope: Scope) -> Response | None:
        """Why a request is not let in; None where it is."""
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if not self._names.know(host):
            return PlainTextResponse(_("The studio answers to the names of this machine only."), 403)
        if scope["method"] not in SAFE and not _is_own(headers, self._names.origin(host)):
            return PlainTextResponse(_("This form was sent from another page."), 403)
        if path == "/health" or path.startswith("/static/"):
            return None
        state = scope.setdefault("state", {})
        state["cookie"] = _cookie(headers, COOKIE)
        visitor = await asyncio.to_thread(self._sessions.find, state["cookie"])
        state["person"], state["accounts"] = visitor
        state["login"] = _cookie(headers, LOGIN_COOKIE)
        if visitor.person is None and not state["login"] and path.startswith(FORMS):
            state["login"] = state["new_login"] = secrets.token_urlsafe(32)
        key = state["cookie"] if visitor.person is not None else state["login"]
        state["token"] = form_token(key) if key else ""
        if path in OPEN or path.startswith(FORMS) or visitor.person is not None:
            return None
        return self._closed(scope, accounts=visitor.accounts)

    def _until_revoked(self, scope: Scope, receive: Receive) -> Receive:
        """What comes of a request; a stream that goes on hears that its browser is gone once its session is revoked."""
        is_whole = False

        async def take() -> Message:
            nonlocal is_whole
            while True:
                try:
                    async with asyncio.timeout(_RECHECK_S if is_whole else None):
                        message = await receive()
                except TimeoutError:
                    cookie = scope.get("state", {}).get("cookie", "")
                    if (await asyncio.to_thread(self._sessions.find, cookie)).person is None:
                        return {"type": "http.disconnect"}
                    continue
                is_whole = not message.get("more_body", False)
                return message

        return take

    def _answering(self, scope: Scope, send: Send) -> Send:
        """Every answer with the headers that keep other pages and scripts out; what was changed is written down before
        it begins."""

        async def begin(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("content-security-policy", POLICY)
                headers.setdefault("cache-control", "no-store")
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if (login := scope.get("state", {}).get("new_login")) is not None:
                    cookie = PlainTextResponse()
                    cookie.set_cookie(
                        LOGIN_COOKIE, login, httponly=True, samesite="lax", path="/", secure=self._names.is_secure
                    )
                    headers.append("set-cookie", cookie.headers["set-cookie"])
                change = scope.get("state", {}).get("change")
                if change is not None and message["status"] < 400:
                    await asyncio.to_thread(self._write_down, change, headers.get("location", ""))
            await send(message)

        return begin

    def _write_down(self, change: Change, location: str) -> None:
        details = {"to": location} if location and location.partition("?")[0] != change.subject else {}
        record_audit(
            self._ledger, change.person, change.action, project=change.project, subject=change.subject, **details
        )  # fmt: skip


class Change(NamedTuple):
    """What a request changes, for the audit log."""

    person: str
    action: str
    project: str
    subject: str


def _is_own(headers: Headers, origin: str) -> bool:
    """Whether a request that changes something comes from a page of this very address."""
    return headers.get("origin") == origin and headers.get("sec-fetch-site", "same-origin") == "same-origin"


def _cookie(headers: Headers, name: str) -> str:
    """A cookie; nothing where it comes twice, as one that was planted would."""
    texts = headers.getlist("cookie")
    try:
        parts = [part.strip() for text in texts for part in text.split(";")]
        own = [SimpleCookie(part)[name].value for part in parts if part.startswith(f"{name}=")]
    except (CookieError, KeyError):
        return ""
    return own[0] if len(own) == 1 else ""


def set_session_cookie(answer: Response, cookie: str, names: StudioNames) -> None:
    """Give a browser its session."""
    answer.set_cookie(
        COOKIE, cookie, max_age=int(LIFE.total_seconds()), httponly=True, samesite="strict", path="/",
        secure=names.is_secure,
    )  # fmt: skip
    answer.delete_cookie(LOGIN_COOKIE, path="/")


def own_path(text: str) -> str:
    """A path of the studio's own, to go to after something; the first page for anything else."""
    return text if _OWN_PATH.fullmatch(text) else "/"


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


async def read_form(request: Request) -> AsyncIterator[FormData]:
    """The form of a request, once it carries the session's own token; 403 else."""
    async with request.form(max_files=1, max_fields=_MOST_FIELDS, max_part_size=_FORM_BYTES) as form:
        given = form.get("token")
        own = request.state.token.encode()
        if not own or not isinstance(given, str) or not hmac.compare_digest(given.encode(), own):
            why = _("This form is not of this session: load the page again.")
            raise HTTPException(403, why, headers={"hx-reswap": "none"})  # what was typed stays
        yield form
