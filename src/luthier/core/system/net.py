"""HTTP that cannot reach private networks, URLs without secrets, and the Hugging Face hub's cache.

A guarded connection resolves a name once, checks every address and connects to the checked address, so that neither a
redirect nor a name server leads a crawl or a web hook into a private network. One deadline bounds the whole request,
also when a server sends a byte now and then.

`HubRepository` reads a repository from the local hub cache, or downloads it on demand. `HF_ENDPOINT`, `HF_HUB_CACHE`
and `HF_TOKEN` apply. A download resumes after a broken connection and keeps the files that are complete.
"""

from __future__ import annotations

import io
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from ssl import SSLContext
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, urlsplit

import httpcore

from luthier.core.errors import InputError, SourceLocation
from luthier.core.files import is_env_var

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
    inner = _inner(found)
    return all(one.is_global and not one.is_multicast and one not in _ASSIGNED for one in (found, inner or found))


def _inner(found: IPv4Address | IPv6Address) -> IPv4Address | None:
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
        stream = super().connect_tcp(address, port, self._left(), local_address, socket_options)
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

    def _left(self) -> float:
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


HIDDEN = "***"
_PASSWORD = re.compile(r"(?P<before>[A-Za-z][\w+.-]*://[^:/@?#]*:)(?P<password>[^@]*)@")
_SECRET_NAMES = re.compile(r"pass|pwd|secret|token|signature|credential|api_?key|access_?key", re.IGNORECASE)
_SECRET_PAIR = re.compile(r"(?P<before>[?&;](?P<name>[^=&;#?]*)=)(?P<value>[^&;#]*)")


def is_database_url(url: str) -> bool:
    """Whether a URL means a database, not a file: SQLAlchemy knows its scheme; `$NAME` is taken as one, too."""
    if is_env_var(url):
        return True
    from sqlalchemy.dialects import registry
    from sqlalchemy.exc import NoSuchModuleError

    try:
        registry.load(url.partition("://")[0].replace("+", ".").replace("postgres:", "postgresql:"))
    except (NoSuchModuleError, ImportError):
        return url.startswith(("postgres", "mysql", "mssql", "oracle", "sqlite"))
    return True


def find_plain_secret(url: str) -> str | None:
    """Where a URL holds a secret that is not `$NAME`: `password`, or the name of a parameter; None when nowhere."""
    found = _PASSWORD.match(url)
    if found and found["password"] and not is_env_var(found["password"]):
        return "password"
    for pair in _SECRET_PAIR.finditer(url):
        inner = re.search(r"(?:pwd|password)(?:=|%3d)", pair["value"], re.IGNORECASE)
        if inner or (_SECRET_NAMES.search(pair["name"]) and pair["value"] and not is_env_var(pair["value"])):
            return pair["name"]
    return None


def redact_url(url: str) -> str:
    """The URL as it may be written down: no user, no password, and no value of a parameter that is a secret."""
    bare = re.sub(r"^([A-Za-z][\w+.-]*://)[^/?#]*@", r"\1", url)
    return _SECRET_PAIR.sub(_hide_pair, bare)


def _hide_pair(pair: re.Match[str]) -> str:
    secret = _SECRET_NAMES.search(pair["name"]) and pair["value"]
    return pair["before"] + HIDDEN if secret else pair[0]


def secrets_of(url: str) -> set[str]:
    """The secrets that a URL holds, each as it stands there and as it is meant."""
    found = {match["password"] for match in [_PASSWORD.match(url)] if match}
    pairs = parse_qsl(urlsplit(url).query) if "?" in url else []
    found |= {value for name, value in pairs if _SECRET_NAMES.search(name)}
    return {form for secret in found if secret for form in (secret, quote(secret, safe=""))}


def redact_secrets(text: str, secrets: Iterable[str]) -> str:
    """A text in which secrets are hidden, the longest first."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


Progress = Callable[[float, float], object]
"""Told the bytes that are here and the bytes of all files."""


@contextmanager
def _no_bars() -> Iterator[None]:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _bar(progress: Progress) -> type[Any]:
    """What the hub's library counts its bytes with, which draws nothing and tells `progress`."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        """One count of bytes or of files."""

        def __init__(self, *given: Any, **settings: Any) -> None:
            settings |= {"disable": False, "file": io.StringIO()}
            super().__init__(*given, **settings)  # type: ignore[no-untyped-call]  # the library's class has no types

        def update(self, n: float | None = 1) -> bool | None:
            done: bool | None = super().update(n)
            if self.unit == "B":
                progress(self.n, self.total or 0)
            return done

    return Bar


@dataclass(frozen=True, kw_only=True)
class HubRepository:
    """A repository of the hub, and how errors speak of it."""

    id: str
    revision: str
    online: bool
    holds: Literal["model", "dataset"]
    noun: str
    where: SourceLocation
    error: type[InputError]
    example: str
    """What to do to have it fetched, as an order."""

    def snapshot(self, patterns: Sequence[str], ignored: Sequence[str] = (), progress: Progress | None = None) -> Path:
        """The folder with the files that fit; its name is the commit. `progress` hears of what is fetched."""
        from huggingface_hub import is_offline_mode, snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        try:
            with nullcontext() if progress is not None else _no_bars():
                found = snapshot_download(
                    self.id,
                    repo_type=self.holds,
                    revision=self.revision,
                    allow_patterns=list(patterns),
                    ignore_patterns=list(ignored),
                    local_files_only=not self.online,
                    cache_dir=os.environ.get("HF_HUB_CACHE"),
                    endpoint=os.environ.get("HF_ENDPOINT"),
                    tqdm_class=_bar(progress) if progress is not None else None,
                )
        except GatedRepoError as error:
            hint = "accept its terms on the hub and set HF_TOKEN"
            raise self._told("is given out only to those who accepted its terms", hint) from error
        except RevisionNotFoundError as error:
            raise self._told(f"has no revision {self.revision!r}", "look it up on the hub") from error
        except RepositoryNotFoundError as error:
            hint = f"check the spelling; for a private {self.noun} set HF_TOKEN"
            what = f"the hub has no {self.noun} {self.id!r}"
            raise self.error(what, where=self.where, hint=hint) from error
        except OfflineModeIsEnabled as error:
            raise self._forbidden() from error
        except LocalEntryNotFoundError as error:
            raise (self._forbidden() if self.online and is_offline_mode() else self._not_here()) from error
        except (HfHubHTTPError, OSError) as error:
            what = f"the hub could not give {self.id}: {type(error).__name__}"
            raise self.error(what, where=self.where, hint="try again later") from error
        return Path(found)

    def _told(self, what: str, hint: str) -> InputError:
        return self.error(f"{self.id} {what}", where=self.where, hint=hint)

    def _forbidden(self) -> InputError:
        what = "is not in the local hub cache, and HF_HUB_OFFLINE forbids to ask the hub"
        return self._told(what, "unset HF_HUB_OFFLINE")

    def _not_here(self) -> InputError:
        if self.online:
            hint = "connect, or set HF_ENDPOINT to your mirror"
            return self._told("is not in the local hub cache, and the hub cannot be reached", hint)
        hint = f"to fetch it, {self.example}; if a folder was meant, there is none of that name"
        what = f"{self.id} (revision {self.revision!r}) is not in the local hub cache"
        return self.error(what, where=self.where, hint=hint)
