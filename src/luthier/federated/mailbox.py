"""A site's end of a transport: envelopes that wait for it, and where its answers go. Sites call out, always."""

from __future__ import annotations

import re
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.errors import InputError, SystemResourceError
from luthier.core.files import write_atomically
from luthier.federated.policy import HttpAddress, SitePolicy

if TYPE_CHECKING:
    import httpx

FEDERATION = re.compile(r"[0-9a-f]{8,128}")


def get_message_name(number: int, site: str) -> str:
    """The file of a message to a site."""
    return f"{number:07d}-to-{site}"


def get_answer_name(number: int, site: str) -> str:
    """The file of a site's answer."""
    return f"{number:07d}-from-{site}"


class SiteMailbox(ABC):
    """What a site reads from and writes to."""

    @abstractmethod
    def fetch(self) -> Iterator[bytes]:
        """Envelopes for this site that have no answer yet, in the order of their numbers."""

    @abstractmethod
    def answer(self, federation: str, number: int, envelope: bytes) -> None:
        """Put the answer to a message of a federation."""

    def refuse(self, envelope: bytes) -> None:  # noqa: B027  # most have nobody who waits
        """Give no answer to an envelope; nothing to do where nobody waits at this end."""

    def close(self) -> None:  # noqa: B027  # most opened nothing
        """End what was opened; nothing by default."""


class FolderMailbox(SiteMailbox):
    """A folder that coordinator and site both see."""

    def __init__(self, folder: Path, site: str) -> None:
        self._folder, self._site = folder, site

    def fetch(self) -> Iterator[bytes]:
        """Files to this site without an answer beside them."""
        for federation in sorted(self._folder.glob("*")):
            if not FEDERATION.fullmatch(federation.name) or not federation.is_dir():
                continue
            for path in sorted(federation.glob(f"*-to-{self._site}")):
                number = path.name.partition("-")[0]
                if number.isdigit() and not (federation / get_answer_name(int(number), self._site)).exists():
                    try:
                        content = path.read_bytes()
                    except FileNotFoundError:
                        continue  # another message took its place
                    yield content

    def answer(self, federation: str, number: int, envelope: bytes) -> None:
        """Write the answer's file whole."""
        write_atomically(self._folder / federation / get_answer_name(number, self._site), envelope)


class HttpMailbox(SiteMailbox):
    """A coordinator that listens; the site asks what waits for it."""

    def __init__(self, address: HttpAddress, site: str, policy: SitePolicy) -> None:
        self._url, self._site = address.url.rstrip("/"), site
        self._context = _build_tls(address, policy) if address.url.startswith("https:") else None

    def fetch(self) -> Iterator[bytes]:
        """The envelope that waits, if one does; nothing where the coordinator does not answer."""
        import httpx

        try:
            with self._open() as client:
                found = client.get(f"{self._url}/messages/{self._site}")
        except httpx.TransportError:
            return
        if found.status_code == 200:
            yield found.content

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

    def _open(self) -> httpx.Client:
        import httpx

        return httpx.Client(verify=self._context if self._context is not None else True, timeout=60.0, trust_env=False)


def _build_tls(address: HttpAddress, policy: SitePolicy) -> ssl.SSLContext:
    """What the site trusts, and how it proves itself."""
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
    from luthier.federated.socket_mailbox import SocketMailbox

    if sum(value is not None for value in (policy.folder, policy.http, policy.flower)) != 1:
        raise InputError(
            "name `folder`, `http` or `flower` in the policy, one of them", hint="where the coordinator's messages are"
        )
    if policy.folder is not None:
        return FolderMailbox(policy.resolve(policy.folder), policy.name)
    if policy.flower is not None:
        return SocketMailbox(policy.resolve(policy.flower).absolute())
    assert policy.http is not None, "one of them is named"
    return HttpMailbox(policy.http, policy.name, policy)
