"""A web site on this machine, with good pages and bad manners."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

WORDS = "The parcel leaves our house on the day of your order and reaches you within three working days at most. "


class Asked(NamedTuple):
    """One request as it came."""

    path: str
    headers: Mapping[str, str]
    at: float


class Reply(NamedTuple):
    """What is sent: headers with the body's length, then the body."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = {}


Act = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """Paths with what they answer, and what was asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.replies: dict[str, Reply | Act] = {}
        self.asked: list[Asked] = []

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def paths(self) -> list[str]:
        return [each.path for each in self.asked]

    def page(self, path: str, title: str = "", more: str = "", **headers: str) -> str:
        """A page of prose; returns its address."""
        self.replies[path] = Reply(article(title or path, more), headers={"Content-Type": "text/html", **headers})
        return self.root + path

    def sitemap(self, path: str, addresses: list[str]) -> str:
        entries = "".join(f"<url><loc>{address}</loc></url>" for address in addresses)
        self.replies[path] = Reply(
            f"<urlset xmlns='http://www.sitemaps.org/schemas/sitemap/0.9'>{entries}</urlset>".encode()
        )
        return self.root + path


def article(title: str, more: str = "") -> bytes:
    """HTML with a menu, a footer, a script, and an article that says its title."""
    return (
        f"<!doctype html><html><head><title>{title}</title>{more}<script>document.write('owned')</script></head><body>"
        "<nav><a href='/'>Home</a> <a href='/shop'>Shop</a></nav>"
        f"<article><h1>{title}</h1>" + "".join(f"<p>{title} says: {WORDS * 2}</p>" for _ in range(3)) + "</article>"
        "<script>alert('owned')</script><footer>Imprint and privacy</footer></body></html>"
    ).encode()


@contextmanager
def serving() -> Iterator[Site]:
    """The site, as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            site.asked.append(Asked(self.path, {k.lower(): v for k, v in self.headers.items()}, time.monotonic()))
            reply = site.replies.get(self.path, Reply(status=404))
            if not isinstance(reply, Reply):
                reply(self)
                return
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *about: object) -> None:
            """Clients that hang up are wanted here."""

    server = Server(("127.0.0.1", 0), Handler)
    site = Site(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
