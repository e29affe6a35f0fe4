"""A site's end of a transport: envelopes that wait for it, and where its answers go. Sites call out, always."""

from __future__ import annotations

import errno
import os
import re
import ssl
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.errors import InputError, SystemResourceError
from luthier.core.files import write_atomically
from luthier.federated.sites.policy import HttpAddress, SitePolicy

if TYPE_CHECKING:
    import httpx

BEGINNING_BYTES = 4096
"""Bytes that are read of a message that is too long."""
MESSAGE_BYTES = 8 << 30
"""Default maximum of a message."""
FEDERATION = re.compile(r"[0-9a-f]{8,128}")
_NUMBER = re.compile(r"[0-9]{7}")


def get_message_name(number: int, site: str) -> str:
    """The file of a message to a site."""
    return f"{number:07d}-to-{site}"


def get_answer_name(number: int, site: str) -> str:
    """The file of a site's answer."""
    return f"{number:07d}-from-{site}"


def read_envelope_file(path: Path, most: int) -> bytes | None:
    """Read a plain file from a shared folder; None where there is none, and only its beginning where it exceeds `most`
    bytes, so that it is refused like any incomplete one.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EISDIR):
            return None
        raise
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(most if about.st_size <= most else BEGINNING_BYTES)


class SiteMailbox(ABC):
    """A site's incoming and outgoing messages."""

    location: str = ""
    """Origin of messages, for people."""
    obstacle: str = ""
    """Why the last poll failed; empty where it succeeded."""

    @abstractmethod
    def fetch(self) -> Iterator[bytes]:
        """Envelopes for this site that have no answer yet, in the order of their numbers."""

    @abstractmethod
    def answer(self, federation: str, number: int, envelope: bytes) -> None:
        """Put the answer to a message of a federation."""

    def refuse(self, envelope: bytes) -> None:  # noqa: B027  # most have nobody who waits
        """Refuse an envelope; does nothing where no sender waits."""

    def close(self) -> None:  # noqa: B027  # most opened nothing
        """End what was opened; nothing by default."""


class FolderMailbox(SiteMailbox):
    """A folder that coordinator and site both see."""

    def __init__(self, folder: Path, site: str, most: int = MESSAGE_BYTES) -> None:
        """`most` bytes of a message are read."""
        self._folder, self._site, self._most = folder, site, most
        self.location = f"in {folder}"

    def fetch(self) -> Iterator[bytes]:
        """Return the messages to this site without an answer."""
        self.obstacle = "" if self._folder.is_dir() else f"there is no folder {self._folder} yet"
        for federation in sorted(self._folder.glob("*")):
            if not FEDERATION.fullmatch(federation.name) or not federation.is_dir():
                continue
            for path in sorted(federation.glob(f"*-to-{self._site}")):
                number = path.name.partition("-")[0]
                if _NUMBER.fullmatch(number) and not (federation / get_answer_name(int(number), self._site)).exists():
                    content = read_envelope_file(path, self._most)
                    if content is not None:  # another message took its place, or it is no file
                        yield content

    def answer(self, federation: str, number: int, envelope: bytes) -> None:
        """Write the answer's file whole."""
        write_atomically(self._folder / federation / get_answer_name(number, self._site), envelope)


class HttpMailbox(SiteMailbox):
    """A listening coordinator that the site polls."""

    def __init__(self, address: HttpAddress, site: str, policy: SitePolicy) -> None:
        self._url, self._site, self._most = address.url.rstrip("/"), site, policy.message_bytes
        self._context = _build_tls(address, policy) if address.url.startswith("https:") else None
        self.location = f"at {self._url}"

    def fetch(self) -> Iterator[bytes]:
        """Return the waiting envelope, if any; nothing where the coordinator does not respond, with the reason in
        `obstacle`.
        """
        import httpx

        try:
            with self._open() as client, client.stream("GET", f"{self._url}/messages/{self._site}") as found:
                status = found.status_code
                content = self._read(found) if status == 200 else None
        except httpx.TransportError as error:
            self.obstacle = _explain_transport(error, self._url)
            return
        self.obstacle = self._explain_status(status)
        if content is not None:
            yield content

    def _explain_status(self, status: int) -> str:
        if status in (200, 204):
            return ""
        if status == 403:
            return f"the coordinator at {self._url} knows no site {self._site!r}: has it got this site's card?"
        return f"{self._url} answers {status}: is that the coordinator's `url`?"

    def answer(self, federation: str, number: int, envelope: bytes) -> None:
        """Bring the answer; `SystemResourceError` where it is not taken."""
        import httpx

        try:
            with self._open() as client:
                found = client.put(f"{self._url}/answers/{self._site}/{federation}/{number}", content=envelope)
        except httpx.TransportError as error:
            raise SystemResourceError(f"the coordinator cannot be reached: {type(error).__name__}") from error
        if found.status_code != 204:
            raise SystemResourceError(f"the coordinator does not take the answer: {found.status_code}")

    def _read(self, found: httpx.Response) -> bytes:
        """Return the response; only its beginning where it exceeds the policy's limit."""
        content = bytearray()
        for part in found.iter_raw():  # not decoded: somebody's archive could be a thousand times as long
            content += part
            if len(content) > self._most:
                return bytes(content[:BEGINNING_BYTES])
        return bytes(content)

    def _open(self) -> httpx.Client:
        import httpx

        return httpx.Client(verify=self._context if self._context is not None else True, timeout=60.0, trust_env=False)


def _explain_transport(error: httpx.TransportError, url: str) -> str:
    """Return why a coordinator does not respond, and what to do."""
    import httpx

    cause = error.__context__
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__context__
    if isinstance(cause, ssl.SSLError):
        why = getattr(cause, "verify_message", "") or cause.reason or type(cause).__name__
        return f"{url} and this site do not accept each other's certificates ({why}): see `http` in the policy"
    if isinstance(error, httpx.ConnectError):
        return f"nobody listens at {url}: the coordinator does so while its recipe runs, or its monitor asks"
    return f"{url} ends the connection ({type(error).__name__}): it may want a certificate of this site"


def _build_tls(address: HttpAddress, policy: SitePolicy) -> ssl.SSLContext:
    """Return the TLS context: trusted authorities, and the site's client certificate."""
    try:
        context = ssl.create_default_context(cafile=str(policy.resolve(address.ca)) if address.ca else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if address.certificate is not None:
            key = str(policy.resolve(address.private_key)) if address.private_key else None
            context.load_cert_chain(str(policy.resolve(address.certificate)), key)
    except (OSError, ssl.SSLError) as error:
        raise policy.build_refusal("http", f"the certificates cannot be read: {type(error).__name__}") from error
    return context


def open_mailbox(policy: SitePolicy) -> SiteMailbox:
    """The mailbox that a policy names; `InputError` where it names none or two."""
    from luthier.federated.messaging.socket_mailbox import SocketMailbox

    if sum(value is not None for value in (policy.folder, policy.http, policy.flower)) != 1:
        raise InputError(
            "name `folder`, `http` or `flower` in the policy, one of them", hint="where the coordinator's messages are"
        )
    if policy.folder is not None:
        return FolderMailbox(policy.resolve(policy.folder), policy.name, policy.message_bytes)
    if policy.flower is not None:
        return SocketMailbox(policy.resolve(policy.flower).absolute())
    assert policy.http is not None, "one of them is named"
    return HttpMailbox(policy.http, policy.name, policy)
