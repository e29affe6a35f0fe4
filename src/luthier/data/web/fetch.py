"""One page over HTTP: few redirects, a limit of bytes packed and unpacked, one deadline, no cookie, no script."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urljoin, urlsplit

import httpcore

from luthier.core.system.net import redact_url
from luthier.core.system.public_http import PrivateAddressError, PublicOnlyBackend, seconds_until

REDIRECTS = 5
_MOVED = frozenset({301, 302, 303, 307, 308})
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_KEPT = ("content-type", "etag", "last-modified", "x-robots-tag")
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
May = Callable[[str], float]


class FetchError(Exception):
    """Why a page is not there; `passing` when it may be there another time."""

    def __init__(self, problem: str, *, passing: bool = False, status: int = 0) -> None:
        super().__init__(problem)
        self.problem = problem
        self.passing = passing
        self.status = status


@dataclass(frozen=True)
class HttpResponse:
    """What a server sent."""

    url: str
    """Where the redirects ended."""
    status: int
    headers: dict[str, str]
    """The few that are kept, in small letters."""
    body: bytes = b""


@dataclass
class RateLimitedFetcher:
    """Asks servers, each at most once in `delay_s` seconds."""

    user_agent: str
    delay_s: float
    timeout_s: float
    retries: int
    allowed: tuple[str, ...] = ()
    _last: dict[str, float] = field(default_factory=dict)
    _guard: PublicOnlyBackend = field(init=False)
    _pool: httpcore.ConnectionPool = field(init=False)

    def __post_init__(self) -> None:
        self._guard = PublicOnlyBackend(self.allowed)
        self._pool = httpcore.ConnectionPool(network_backend=self._guard, max_connections=4)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.close()

    def get(self, url: str, limit: int, more: Mapping[str, str] | None = None, may: May | None = None) -> HttpResponse:
        """The page, after redirects; `FetchError` says why it is not there.

        `more` are headers of the request. `may` is asked before each address, also one that a redirect leads to: it
        refuses by `FetchError`, or says how many seconds must lie between two requests.
        """
        wait, attempts = FIRST_WAIT_S, 0
        while True:
            try:
                return self._followed(url, limit, more or {}, may or (lambda at: 0.0))
            except FetchError as error:
                attempts += 1
                if not error.passing or attempts > self.retries:
                    raise
            time.sleep(wait)
            wait = min(LONGEST_WAIT_S, 2 * wait)

    def _followed(self, url: str, limit: int, more: Mapping[str, str], may: May) -> HttpResponse:
        for _ in range(REDIRECTS + 1):
            self._wait(url, max(may(url), self.delay_s))
            answer = self._once(url, limit, more)
            if answer.status not in _MOVED:
                return answer
            url = _joined(url, answer.headers.get("location", ""))
        raise FetchError(f"more than {REDIRECTS} redirects")

    def _wait(self, url: str, delay_s: float) -> None:
        host = urlsplit(url).netloc
        if host in self._last:
            time.sleep(max(0.0, self._last[host] + delay_s - time.monotonic()))
        self._last[host] = time.monotonic()

    def _once(self, url: str, limit: int, more: Mapping[str, str]) -> HttpResponse:
        parts = check_fetchable_url(url)
        headers = {"Host": parts, "User-Agent": self.user_agent, "Accept-Encoding": "gzip", "Accept": "*/*", **more}
        self._guard.deadline = time.monotonic() + self.timeout_s
        sent = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        try:
            with self._pool.stream("GET", url.encode("ascii"), headers=sent) as response:
                return self._read(url, response, limit)
        except PrivateAddressError as error:
            raise FetchError(str(error)) from None
        except httpcore.TimeoutException:
            raise FetchError(f"was not sent within {self.timeout_s:g} s", passing=True) from None
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise FetchError(
                f"cannot be fetched: {redact_url(str(error)) or type(error).__name__}", passing=True
            ) from None

    def _read(self, url: str, response: httpcore.Response, limit: int) -> HttpResponse:
        headers: dict[str, str] = {}
        for raw, value in response.headers:
            name = raw.decode("latin-1").lower()
            headers[name] = (
                f"{headers[name]}, {value.decode('latin-1')}" if name in headers else value.decode("latin-1")
            )
        status = response.status
        if status in _MOVED or status == 304:
            return HttpResponse(url, status, headers)
        if status != 200:
            raise FetchError(f"the server answered {status}", passing=status in _AGAIN, status=status)
        body = _body(response, headers.get("content-encoding", "").strip().lower(), limit, self._guard)
        return HttpResponse(url, status, {name: headers[name] for name in _KEPT if name in headers}, body)


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise FetchError("redirects to what is no URL") from None


def check_fetchable_url(url: str) -> str:
    """The host, and port, of a URL that may be fetched; `FetchError` for any other."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise FetchError("is no URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii():
        raise FetchError("is no http or https URL")
    if parts.username is not None:
        raise FetchError("names a user in the URL, which is not sent")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return host if port is None else f"{host}:{port}"


def _body(response: httpcore.Response, encoding: str, limit: int, guard: PublicOnlyBackend) -> bytes:
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise FetchError(f"came packed as {encoding!r}, which was not asked for")
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 32) if encoding not in ("", "identity") else None
    whole, came = bytearray(), 0
    for chunk in response.iter_stream():
        seconds_until(guard.deadline)
        came += len(chunk)
        whole += chunk if unpack is None else _unpacked(unpack, chunk, limit + 1 - len(whole))
        if len(whole) > limit or came > limit:
            raise FetchError(f"is larger than {limit} bytes")
    if unpack is not None and not unpack.eof:
        raise FetchError("is packed in a damaged way")
    return bytes(whole)


def _unpacked(unpack: zlib._Decompress, chunk: bytes, most: int) -> bytes:
    """At most so many bytes more: a few packed ones can hold gigabytes."""
    try:
        return unpack.decompress(chunk, max(1, most))
    except zlib.error:
        raise FetchError("is packed in a damaged way") from None


def gunzip_with_limit(data: bytes, limit: int) -> bytes:
    """A file that may be gzip, unpacked up to a limit."""
    if not data.startswith(b"\x1f\x8b"):
        return data
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 16)
    whole = _unpacked(unpack, data, limit + 1)
    if len(whole) > limit or not unpack.eof:
        raise FetchError(f"is larger than {limit} bytes" if len(whole) > limit else "is packed in a damaged way")
    return whole
