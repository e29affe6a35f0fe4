"""Messages over HTTP: the coordinator listens, and sites call out."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.core.component import BasicMarker
from luthier.core.errors import InputError, SourceLocation
from luthier.core.files import PathText, resolve_path
from luthier.core.step import StepContext
from luthier.federated.errors import MessageError
from luthier.federated.messaging.envelopes import SPARE, EnvelopeChannel, EnvelopeTransport, Post, read_member_cards
from luthier.federated.messaging.keys import FederationIdentity, PublicCard, verify_envelope
from luthier.federated.messaging.unix_server import UnixServer
from luthier.federated.transport import SiteChannel

_MESSAGES = re.compile(r"/messages/(?P<site>[a-z0-9_-]{1,63})")
_ANSWERS = re.compile(r"/answers/(?P<site>[a-z0-9_-]{1,63})/(?P<federation>[0-9a-f]{8,128})/(?P<number>[0-9]{1,7})")
TIMEOUT_S = 60.0
"""Maximum seconds of one read from a site."""


class HttpTransport(EnvelopeTransport):
    """Listen for sites, which fetch their messages and bring their answers. Each is signed, encrypted to its reader,
    and numbered; TLS with certificates on both sides is an addition to that."""

    kind: Literal["http"] = "http"

    host: str = "127.0.0.1"
    """The address to listen at; this machine alone can reach the default."""
    port: Annotated[int, Field(ge=0, le=65535), BasicMarker()] = 8443
    """The port to listen at; 0 takes any that is free."""
    certificate: PathText | None = None
    """A file with the TLS certificate by which the coordinator proves itself; plain HTTP when not given."""
    private_key: PathText | None = None
    """A file with the key of that certificate."""
    client_ca: PathText | None = None
    """A file with the authority of the sites' certificates: only sites with one are let in (mutual TLS)."""

    @model_validator(mode="after")
    def _tls_agrees(self) -> HttpTransport:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("give `certificate` and `private_key` together")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError(
                "client_ca asks sites for certificates over TLS; give `certificate` and `private_key`, too"
            )
        return self

    def open_channel(self, work: StepContext, sites: Sequence[str]) -> SiteChannel:
        """Listen for one federation."""
        identity = FederationIdentity.read(resolve_path(self.keys, work.recipe_dir))
        cards = read_member_cards(self.member_cards, work.recipe_dir, self.revoked)
        post = HttpPost(cards, identity.card, work.digest, (self.host, self.port), self._build_tls(work.recipe_dir))
        work.events.note(f"listens for {len(cards)} sites at {post.url}")
        return EnvelopeChannel(work, identity, cards, post, self.wait_s)

    def _build_tls(self, recipe_dir: Path) -> ssl.SSLContext | None:
        if self.certificate is None or self.private_key is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_cert_chain(
                resolve_path(self.certificate, recipe_dir), resolve_path(self.private_key, recipe_dir)
            )
            if self.client_ca is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(resolve_path(self.client_ca, recipe_dir))
        except (OSError, ssl.SSLError) as error:
            where = SourceLocation(field="transport.certificate")
            raise InputError("the certificates cannot be read", where=where) from error
        return context


class HttpPost(Post):
    """A small server: `GET /messages/SITE` gives what waits, `PUT /answers/SITE/FEDERATION/NUMBER` takes an answer that
    the site signed."""

    def __init__(
        self,
        cards: Mapping[str, PublicCard],
        own: PublicCard,
        federation: str,
        address: tuple[str, int] | Path,
        tls: ssl.SSLContext | None,
    ) -> None:
        """`address` is a host and a port, or a Unix socket."""
        self._cards, self._own, self._federation = cards, own, federation
        self._lock = threading.Lock()
        self._messages: dict[str, tuple[int, bytes]] = {}
        self._answers: dict[tuple[str, int], bytes] = {}
        self._largest: dict[str, int] = {}
        self._expected = 0
        self._server: _Server | _UnixServer
        if isinstance(address, Path):
            self._server, self.url = _UnixServer(address, self), str(address)
        else:
            self._server = _open_server(address, self, tls)
            self.url = f"{'http' if tls is None else 'https'}://{address[0]}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def put(self, site: str, number: int, envelope: bytes) -> None:
        """Hold an envelope until the site fetches it."""
        with self._lock:
            self._largest[site] = max(self._largest.get(site, 0), len(envelope))
            before, _ = self._messages.get(site, (number, b""))
            self._messages[site] = (number, envelope)
            for answered in (before, number):
                self._answers.pop((site, answered), None)

    def get(self, site: str, number: int) -> bytes | None:
        """The answer, if it was brought."""
        with self._lock:
            return self._answers.get((site, number))

    def expect_bytes(self, most: int) -> None:
        """Accept answers of up to `most` bytes, although the message is small."""
        with self._lock:
            self._expected = most

    def discard(self, site: str, number: int) -> None:
        """Let the site send its answer again."""
        with self._lock:
            self._answers.pop((site, number), None)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def knows(self, site: str) -> bool:
        """Return whether a site of this name takes part."""
        return site in self._cards

    def find_waiting(self, site: str) -> tuple[str, bytes] | None:
        """The envelope that a site has not answered yet, and where its answer goes."""
        with self._lock:
            number, envelope = self._messages.get(site, (-1, b""))
            if number < 0 or (site, number) in self._answers:
                return None
            return f"/answers/{site}/{self._federation}/{number}", envelope

    def count_allowed_bytes(self, site: str) -> int:
        """The largest answer of a site: twice what it was sent at most, since masked numbers are twice as wide, and
        somewhat more."""
        with self._lock:
            return max(2 * self._largest.get(site, 0), self._expected) + SPARE

    def take(self, site: str, federation: str, number: int, envelope: bytes) -> int:
        """Take an answer that the site signed, once; returns the HTTP status."""
        if site not in self._cards or federation != self._federation:
            return 404
        try:
            header = verify_envelope(envelope, self._cards[site])
        except MessageError:
            return 403
        if (header.federation, header.number, header.reader) != (federation, number, self._own.fingerprint):
            return 403
        with self._lock:
            if self._messages.get(site, (-1, b""))[0] != number or (site, number) in self._answers:
                return 409
            self._answers[site, number] = envelope
        return 204


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    tls: ssl.SSLContext | None = None

    def __init__(self, address: tuple[str, int], post: HttpPost) -> None:
        super().__init__(address, _Handler)
        self.post = post

    def finish_request(self, request: Any, client_address: Any) -> None:
        """TLS is spoken in the connection's own thread, so that a slow client holds up no other."""
        request.settimeout(TIMEOUT_S)
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        try:
            encrypted = self.tls.wrap_socket(request, server_side=True)
        except (OSError, ssl.SSLError):
            return  # no certificate of ours, or no TLS at all
        with encrypted:  # the plain socket was taken over, and the server closes that alone
            super().finish_request(encrypted, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A broken connection is no news."""


def _open_server(address: tuple[str, int], post: HttpPost, tls: ssl.SSLContext | None) -> _Server:
    try:
        server = _Server(address, post)
    except OSError as error:
        where = SourceLocation(field="transport.port")
        raise InputError(f"cannot listen at {address[0]}:{address[1]}: {error.strerror}", where=where) from error
    server.tls = tls
    return server


class _UnixServer(UnixServer):
    def __init__(self, path: Path, post: HttpPost) -> None:
        super().__init__(path, _Handler)
        self.post = post


class _Handler(BaseHTTPRequestHandler):
    protocol_version: ClassVar[str] = "HTTP/1.0"  # type: ignore[misc]  # one request a connection
    server: _Server | _UnixServer

    def do_GET(self) -> None:
        """Give what waits."""
        found = _MESSAGES.fullmatch(self.path)
        if not found or not self.server.post.knows(found["site"]):
            self._reply(403 if found else 404)
            return
        waiting = self.server.post.find_waiting(found["site"])
        if waiting is None:
            self._reply(204)
        else:
            self._reply(200, waiting[1], {"Content-Location": waiting[0]})

    def do_PUT(self) -> None:
        """Take an answer."""
        found = _ANSWERS.fullmatch(self.path)
        length = self.headers.get("Content-Length", "")
        if not found or not length.isdigit():
            self._reply(404 if not found else 411)
            return
        if int(length) > self.server.post.count_allowed_bytes(found["site"]):
            self._reply(413)
            return
        envelope = self.rfile.read(int(length))
        self._reply(self.server.post.take(found["site"], found["federation"], int(found["number"]), envelope))

    def _reply(self, status: int, content: bytes = b"", headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # the base class calls it so
        """Say nothing: the sites' logs tell of every message."""
