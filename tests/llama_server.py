#!/usr/bin/env python3
"""Stands in for llama.cpp's `llama-server`: its HTTP; it answers with the prompt's tokens, from last to first."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Answers as llama.cpp's server does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        tokens = asked["prompt"][::-1][: asked["n_predict"]]
        for token in tokens:
            told: dict[str, Any] = {"content": "?", "tokens": [token], "stop": False}
            if asked["n_probs"]:
                top = [{"id": token, "token": "?", "logprob": -0.5}] * asked["n_probs"]
                told["completion_probabilities"] = [{"id": token, "token": "?", "logprob": -0.5, "top_logprobs": top}]
            self._send(told)
        kind = "limit" if len(tokens) == asked["n_predict"] else "eos"
        self._send({"content": "", "tokens": [], "stop": True, "stop_type": kind, "timings": {"cache_n": 3}})

    def _send(self, told: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(told).encode() + b"\n\n")

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def main(words: list[str]) -> None:
    """`-m FILE --host HOST --port PORT …`"""
    told = dict(zip(words[::2], words[1::2], strict=False))
    if not Path(told["-m"]).read_bytes().startswith(b"GGUF"):
        sys.exit("error: this is no GGUF file")
    ThreadingHTTPServer((told["--host"], int(told["--port"])), Handler).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
