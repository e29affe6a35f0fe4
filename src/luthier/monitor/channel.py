"""Channels of notifications: the role `channel`, and JSON over HTTP.

A message is sent under one deadline, follows no redirect, and reaches no private address unless the user allows it.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar
from urllib.parse import urlsplit

from luthier.core.component import Component
from luthier.core.context import RunContext
from luthier.core.errors import InputError
from luthier.core.files import expand_env_vars
from luthier.monitor.alerts import AlertMessage, Severity

_RANK: dict[Severity, int] = {"info": 0, "warning": 1, "critical": 2}


class DeliveryError(Exception):
    """A message that could not be sent, and why; never with a secret in it."""


class Channel(Component):
    """The base class of channels that alert messages are sent to."""

    role: ClassVar[str] = "channel"
    home: ClassVar[str] = "luthier.monitor.channels"

    severity: Severity = "info"
    """Less severe alerts are not sent here."""

    @abstractmethod
    def send(self, message: AlertMessage, post: RunContext) -> None:
        """Send a message; `DeliveryError` with the reason otherwise. A message with the same id is the same message."""

    def wants(self, message: AlertMessage) -> bool:
        """Return whether it receives such a message."""
        return message.tells == "test" or _RANK[message.severity] >= _RANK[self.severity]


_READ_BYTES = 2000


def post_json(
    url: str, body: bytes, *, headers: Mapping[str, str] | None = None, allowed: Iterable[str] = (), timeout_s: float
) -> None:
    """Send a POST; `DeliveryError` when it is refused, times out, or the status is not 2xx.

    `url` may be `$NAME`; neither it nor the server's response is in an error, since either may be secret.
    """
    import httpcore

    from luthier.core.system.public_http import PrivateAddressError, PublicOnlyBackend

    address = _address(url)
    host = urlsplit(address).hostname or ""
    guard = PublicOnlyBackend(allowed)
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
    except PrivateAddressError as error:
        raise DeliveryError(f"{error}; name the host in `allow` if it may be told") from None
    except httpcore.TimeoutException:
        raise DeliveryError(f"{host} did not answer within {timeout_s:g} s") from None
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
        raise DeliveryError(f"{host} cannot be reached ({type(error).__name__})") from None
    if not 200 <= status < 300:
        raise DeliveryError(f"{host} answered with status {status}")


def _address(url: str) -> str:
    try:
        address = expand_env_vars(url)
    except InputError as error:
        raise DeliveryError(error.message) from None
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or not address.isascii():
        raise DeliveryError("expected an address that begins with https:// or http://")
    return address
