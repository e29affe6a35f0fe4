"""A server at a Unix socket, which only this machine can reach."""

from __future__ import annotations

import errno
import os
import socket
import socketserver
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from luthier.core.errors import InputError, SourceLocation

TIMEOUT_S = 60.0
"""Maximum seconds of one read."""
PATH_BYTES = 107
"""The longest name of a socket that Linux allows."""


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens at a Unix socket that its owner and group may use; one request a connection, each in a thread."""

    daemon_threads = True

    def __init__(self, path: Path, handler: type[BaseHTTPRequestHandler]) -> None:
        """Listen; `InputError` where that is impossible, or another process already listens."""
        where = SourceLocation(file=str(path))
        self._path: Path | None = None
        if len(os.fsencode(path)) > PATH_BYTES:
            hint = "name a shorter path, such as /run/luthier/north.sock"
            raise InputError(f"the path of a socket has at most {PATH_BYTES} bytes", where=where, hint=hint)
        try:
            _remove_stale(path)
            super().__init__(str(path), handler)
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            why = "somebody listens there already" if in_use else f"cannot listen there: {error.strerror}"
            hint = "end the other one, or name another socket" if in_use else "name a socket in a folder of yours"
            raise InputError(why, where=where, hint=hint) from error
        self._path = path
        path.chmod(0o660)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Reads may not take for ever."""
        request.settimeout(TIMEOUT_S)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A broken connection is no news."""

    def server_close(self) -> None:
        """Stop listening, and remove the socket."""
        super().server_close()
        if self._path is not None:  # otherwise somebody else listens there
            self._path.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    """Remove a socket that a process left when it was killed."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
