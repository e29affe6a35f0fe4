"""Sending JSON to a URL: no redirects, one deadline, and no private address unless it was allowed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from luthier.core.errors import InputError
from luthier.core.paths import filled
from luthier.monitor.channel import Unsent

_READ_BYTES = 2000


def post_json(
    url: str, body: bytes, *, headers: Mapping[str, str] | None = None, allowed: Iterable[str] = (), timeout_s: float
) -> None:
    """Send; `Unsent` when it is refused, not answered in time, or answered with anything but 2xx.

    `url` may be `$NAME`; neither it nor what the server answers is told in an error, since either may hold a secret.
    """
    import httpcore

    from luthier.core.guarded import Guarded, Refused

    address = _address(url)
    host = urlsplit(address).hostname or ""
    guard = Guarded(allowed)
    guard.deadline = time.monotonic() + timeout_s
    sent = {"Host": urlsplit(address).netloc.rpartition("@")[2], "Content-Type": "application/json", **(headers or {})}
    pairs = [(name.encode(), value.encode("latin-1", "replace")) for name, value in sent.items()]
    try:
        with (
            httpcore.ConnectionPool(network_backend=guard) as pool,
            pool.stream("POST", address.encode("ascii"), headers=pairs, content=body) as response,
        ):
            status = response.status
            for piece in response.iter_stream():
                if len(piece) > _READ_BYTES:
                    break
    except Refused as error:
        raise Unsent(f"{error}; name the host in `allow` if it may be told") from None
    except httpcore.TimeoutException:
        raise Unsent(f"{host} did not answer within {timeout_s:g} s") from None
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
        raise Unsent(f"{host} cannot be reached ({type(error).__name__})") from None
    if not 200 <= status < 300:
        raise Unsent(f"{host} answered with status {status}")


def _address(url: str) -> str:
    try:
        address = filled(url)
    except InputError as error:
        raise Unsent(error.message) from None
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or not address.isascii():
        raise Unsent("expected an address that begins with https:// or http://")
    return address
