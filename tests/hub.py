"""A small hub on the loopback, with what a revision holds and its files: of one model, or of one data set."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(BaseHTTPRequestHandler):
    """The endpoints that a snapshot needs."""

    place: ClassVar[Path]
    """The folder with what is published."""
    name: ClassVar[str]
    """`acme/tiny`."""
    kind: ClassVar[str]
    """`models` or `datasets`."""
    asked: ClassVar[list[str]] = []
    """Every request: `GET /api/models/acme/tiny/revision/main`."""
    breaks_off: ClassVar[str] = ""
    """The file in whose middle the connection ends, once."""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.asked.append(f"{self.command} {path}" + (f" from {first}" if first else ""))
        files = sorted(one for one in self.place.rglob("*") if one.is_file())
        api = f"/api/{self.kind}/{self.name}"
        resolve = f"{'' if self.kind == 'models' else '/datasets'}/{self.name}/resolve/{COMMIT}/"
        if path.startswith(f"/api/{self.kind}/{self.name.partition('/')[0]}/gated"):
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"}, body=body)
        elif path in (f"{api}/revision/{name}" for name in ("main", COMMIT)):
            names = [{"rfilename": one.relative_to(self.place).as_posix()} for one in files]
            self._send(200, json.dumps({"id": self.name, "sha": COMMIT, "siblings": names}).encode(), body=body)
        elif path.startswith(f"{api}/tree/{COMMIT}"):
            self._send(200, json.dumps([self._row(one) for one in files]).encode(), body=body)
        elif path.startswith(f"{api}/"):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body=body)
        elif path.startswith(resolve):
            data = (self.place / path.removeprefix(resolve)).read_bytes()
            headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            if first:
                headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            if body and path.endswith(self.breaks_off or "\0"):
                type(self).breaks_off = ""
                self._send(200, data, headers, body=False)
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
                return
            self._send(206 if first else 200, data[first:], headers, body=body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body=body)

    def _row(self, one: Path) -> dict[str, object]:
        data = one.read_bytes()
        name = one.relative_to(self.place).as_posix()
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None, *, body: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def publishing(place: Path, kind: str, name: str, patch: pytest.MonkeyPatch, cache: Path) -> Iterator[type[FakeHub]]:
    """Serve a folder as one model or data set of a hub that all libraries ask."""

    class Hub(FakeHub):
        """One server's own."""

        asked: ClassVar[list[str]] = []

    Hub.place, Hub.kind, Hub.name = place, kind, name
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    patch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    patch.setenv("HF_HUB_CACHE", str(cache))
    yield Hub
    server.shutdown()
    thread.join()
    server.server_close()
