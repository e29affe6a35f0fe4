"""HTTP that cannot reach private networks.

A guarded connection resolves a name once, checks every address and connects to the checked address, so that neither a
redirect nor a name server leads a crawl or a web hook into a private network. One deadline bounds the whole request,
also when a server sends a byte now and then.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from ssl import SSLContext
from typing import Any

import httpcore

_WRAPPED = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"), ip_network("::/96"))
"""IPv6 addresses whose last 32 bits are an IPv4 address (RFC 6052, RFC 8215, RFC 4291)."""
_ASSIGNED = ip_network("192.0.0.0/24")
"""For protocols alone (RFC 6890), and where a cloud keeps its machines' secrets; not every Python knows all of it."""


class PrivateAddressError(Exception):
    """An address that may not be asked."""


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, also when it wraps another one."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    inner = _unwrap_address(found)
    return all(
        entry.is_global and not entry.is_multicast and entry not in _ASSIGNED for entry in (found, inner or found)
    )


def _unwrap_address(found: IPv4Address | IPv6Address) -> IPv4Address | None:
    if isinstance(found, IPv4Address):
        return None
    if any(found in network for network in _WRAPPED):
        return IPv4Address(int(found) & 0xFFFFFFFF)
    return found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)


class PublicOnlyBackend(httpcore.SyncBackend):
    """Opens connections to public addresses, and to hosts that were named as allowed."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(host.lower() for host in allowed)
        self.deadline = 0.0
        """When the request under way must be done, by `time.monotonic`."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        """Resolve, look at every address, and connect to the first."""
        address = self.resolved(host, port)
        stream = super().connect_tcp(address, port, self._get_remaining_seconds(), local_address, socket_options)
        return _Timed(stream, self)

    def resolved(self, host: str, port: int) -> str:
        """The address to connect to; `PrivateAddressError` when any that the name has is not public."""
        try:
            found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except (OSError, UnicodeError):
            raise httpcore.ConnectError(f"the name {host!r} is not known") from None
        inside = [address for address in found if not is_public(address)]
        if inside and host.lower() not in self._allowed:
            raise PrivateAddressError(f"{host} is {inside[0]}, an address inside a private network")
        return found[0]

    def _get_remaining_seconds(self) -> float:
        return seconds_until(self.deadline)


def seconds_until(deadline: float) -> float:
    """Seconds until a deadline; `ReadTimeout` when there are none."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise httpcore.ReadTimeout("it took too long")
    return seconds


class _Timed(httpcore.NetworkStream):
    """A stream whose every wait ends with the request's deadline."""

    def __init__(self, stream: httpcore.NetworkStream, guard: PublicOnlyBackend) -> None:
        self._stream = stream
        self._guard = guard

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, seconds_until(self._guard.deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, seconds_until(self._guard.deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        inner = self._stream.start_tls(ssl_context, server_hostname, seconds_until(self._guard.deadline))
        return _Timed(inner, self._guard)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
