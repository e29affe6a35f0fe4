"""A TCP relay between two ends that loses, cuts, delays, repeats and parts what it carries."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections import Counter
from typing import Self

FAULTS = ("none", "none", "lost", "cut request", "cut reply", "delayed", "twice")
DELAY_S = 0.2


class FaultyRelay:
    """Listens at a port of its own; each connection to it becomes one to the port behind, with a fault drawn for it."""

    def __init__(self, port: int, seed: int) -> None:
        self._port, self._chance = port, random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.counts: Counter[str] = Counter()
        """How often each fault came."""
        self.parted = False
        """Whether no connection goes through."""
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            fault = "parted" if self.parted else self._chance.choice(FAULTS)
            self.counts[fault] += 1
            threading.Thread(target=self._carry, args=(client, fault, self._chance.random()), daemon=True).start()

    def _carry(self, client: socket.socket, fault: str, share: float) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(10.0)
            if fault in ("lost", "parted"):
                return
            request = _read_request(client)
            if fault == "delayed":
                time.sleep(DELAY_S)
            if fault == "twice":
                self._ask(request)
            if fault == "cut request":
                self._ask(request[: int(share * len(request))])
                return
            reply = self._ask(request)
            client.sendall(reply[: int(share * len(reply))] if fault == "cut reply" else reply)

    def _ask(self, request: bytes) -> bytes:
        """What the end behind says to a request, of which nothing more comes."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=10.0) as server:
            server.sendall(request)
            server.shutdown(socket.SHUT_WR)
            reply = bytearray()
            while part := server.recv(1 << 16):
                reply += part
            return bytes(reply)


def _read_request(client: socket.socket) -> bytes:
    """A whole HTTP request."""
    content = bytearray()
    while b"\r\n\r\n" not in content:
        if not (part := client.recv(1 << 16)):
            return bytes(content)
        content += part
    head, _, body = bytes(content).partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    missing = (int(lengths[0]) if lengths else 0) - len(body)
    while missing > 0 and (part := client.recv(1 << 16)):
        content += part
        missing -= len(part)
    return bytes(content)
