"""A site's end of the transport `flower`: a Unix socket at which the app hands messages over and waits for answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

from luthier.federated.errors import MessageError
from luthier.federated.messaging.keys import read_envelope_header
from luthier.federated.messaging.mailbox import SiteMailbox
from luthier.federated.messaging.messages import digest_message
from luthier.federated.messaging.unix_server import UnixServer

LARGEST = 1 << 32
"""Bytes of a message at most."""
SEND_S = 10.0
"""Maximum seconds to send an answer."""
MOST_WAITING = 16
"""Messages that may wait at once: a coordinator has one for a site."""


class WaitingMessage:
    """A message whose sender waits for an answer."""

    def __init__(self, envelope: bytes) -> None:
        self.envelope = envelope
        self.ended, self.sent = threading.Event(), threading.Event()
        self.answer: bytes | None = None

    @property
    def location(self) -> tuple[str, int]:
        """Federation and number; none where it is no envelope."""
        try:
            header = read_envelope_header(self.envelope)
        except MessageError:
            return "", -1
        return header.federation, header.number


class SocketMailbox(SiteMailbox):
    """Messages that come through a socket. `POST /messages` has an envelope for its body, and the answer's envelope for
    an answer, as late as it may be (200); or nothing, where the site refuses the message (204)."""

    def __init__(self, path: Path) -> None:
        self.location = f"at the socket {path}"
        self._lock = threading.Lock()
        self._waiting: dict[str, WaitingMessage] = {}
        self._server = _Server(path, self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def fetch(self) -> Iterator[bytes]:
        """Return the waiting messages, in the order of their numbers."""
        with self._lock:
            waiting = sorted(self._waiting.values(), key=lambda entry: entry.location)
        yield from (entry.envelope for entry in waiting)

    def answer(self, federation: str, number: int, envelope: bytes) -> None:
        """Give the answer to all who wait for it; who went will ask again, and gets the same."""
        with self._lock:
            found = {digest: entry for digest, entry in self._waiting.items() if entry.location == (federation, number)}
            for digest in found:
                self._end(digest, envelope)
        for entry in found.values():
            entry.sent.wait(SEND_S)  # this process may end after its last answer

    def refuse(self, envelope: bytes) -> None:
        """Close the connection of a sender without an answer."""
        with self._lock:
            self._end(digest_message(envelope), None)

    def _end(self, digest: str, answer: bytes | None) -> None:
        if (entry := self._waiting.pop(digest, None)) is not None:
            entry.answer = answer
            entry.ended.set()

    def take(self, envelope: bytes) -> WaitingMessage | None:
        """Take a message, so that its answer can be waited for; None where too many wait."""
        digest = digest_message(envelope)
        with self._lock:
            if digest not in self._waiting and len(self._waiting) >= MOST_WAITING:
                return None
            return self._waiting.setdefault(digest, WaitingMessage(envelope))

    def close(self) -> None:
        """Stop listening; who waits goes without an answer."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        with self._lock:
            for digest in list(self._waiting):
                self._end(digest, None)


class _Server(UnixServer):
    def __init__(self, path: Path, mailbox: SocketMailbox) -> None:
        super().__init__(path, _Handler)
        self.mailbox = mailbox


class _Handler(BaseHTTPRequestHandler):
    protocol_version: ClassVar[str] = "HTTP/1.0"  # type: ignore[misc]  # one request a connection
    server: _Server

    def do_POST(self) -> None:
        """Take a message, and give its answer."""
        length = self.headers.get("Content-Length", "")
        if self.path != "/messages" or not length.isdigit() or int(length) > LARGEST:
            self._reply(404 if self.path != "/messages" else 413 if length.isdigit() else 411)
            return
        waiting = self.server.mailbox.take(self.rfile.read(int(length)))
        if waiting is None:
            self._reply(503)
            return
        waiting.ended.wait()
        try:
            self._reply(204 if waiting.answer is None else 200, waiting.answer or b"")
        finally:
            waiting.sent.set()

    def _reply(self, status: int, content: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # the base class calls it so
        """Say nothing: the log tells of every message."""
