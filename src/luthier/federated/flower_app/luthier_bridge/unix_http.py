"""One HTTP request over a Unix socket, with the standard library alone."""

import http.client
import socket


class UnixConnection(http.client.HTTPConnection):
    """A connection to a socket of this machine."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Connect; `OSError` without a listener."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def request(path: str, method: str, url: str, body: bytes | None = None) -> tuple[int, bytes, str]:
    """Status, body and `Content-Location` of the answer; `OSError` or `HTTPException` where there is none."""
    connection = UnixConnection(path)
    try:
        connection.request(method, url, body)
        found = connection.getresponse()
        return found.status, found.read(), found.headers.get("Content-Location", "")
    finally:
        connection.close()
