"""A small OpenAI-compatible server on this machine: real HTTP, answers from a function, and what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


@dataclass
class Reply:
    """What the server sends back."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0


@dataclass
class Server:
    """A running server: where it is, and the requests that came."""

    url: str
    asked: list[Body] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    answer: Callable[[Body], str | Reply] = lambda body: "yes"


def completion(text: str, body: Body, first: dict[str, float] | None = None) -> Body:
    """A response in the API's form."""
    choice: Body = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    if first is not None:
        top = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in first.items()]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}], "refusal": None}
    usage = {"prompt_tokens": 7, "completion_tokens": len(text.split()), "total_tokens": 7 + len(text.split())}
    told = {"id": "x", "object": "chat.completion", "created": 1, "model": body["model"]}
    return {**told, "choices": [choice], "usage": usage}


@contextmanager
def serving(answer: Callable[[Body], str | Reply]) -> Iterator[Server]:
    """Start a server on a free port, and stop it at the end."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append(body)
            server.keys.append(self.headers.get("Authorization", ""))
            found = (
                server.answer(body)
                if self.path in ("/v1/chat/completions", "/v1/completions")
                else Reply({"error": {}}, 404)
            )
            reply = found if isinstance(found, Reply) else Reply(completion(found, body))
            time.sleep(reply.wait_s)
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(data)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: Any) -> None:
            """A client that went away is no fault."""

    listening = Quiet(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{listening.server_address[1]}/v1", answer=answer)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
