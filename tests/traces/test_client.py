"""An application that asks a model elsewhere: OpenAI's clients in two lines, streams, failures."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import openai
import pytest

from luthier.chat.messages import MEDIA_MARK
from luthier.traces.client import _recorder, build_tracing_transport, trace_client
from luthier.traces.media import list_trace_media, read_trace_media
from luthier.traces.record import Trace
from luthier.traces.retention import RetentionPolicy
from luthier.traces.store import read_traces
from vision_models import picture

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
TURNS: Any = [{"role": "user", "content": "Where is it? anna@example.org"}]


class Elsewhere(BaseHTTPRequestHandler):
    """A small honest model: it says `On its way.`, at once or in pieces."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if body["model"] == "busy":
            self.reply(429, {"error": {"message": "too many", "type": "rate_limit"}})
        elif body.get("stream"):
            with contextlib.suppress(ConnectionError):  # whoever asked may leave
                self.stream()
        else:
            turn = {"role": "assistant", "content": "On its way."}
            choice = {"index": 0, "message": turn, "finish_reason": "stop"}
            told = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
            self.reply(200, {**told, "choices": [choice], "usage": USAGE})

    def do_GET(self) -> None:
        self.reply(200, {"object": "list", "data": []})

    def reply(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for word in ("On ", "its ", "way."):
            self.piece({"role": "assistant", "content": word}, None)
            time.sleep(0.02)
        self.piece({}, "length")
        self.wfile.write(b"data: [DONE]\n\n")

    def piece(self, delta: Any, reason: str | None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        told = {"id": "chatcmpl-2", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        self.wfile.write(f"data: {json.dumps(told)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def kept(folder: Path, count: int) -> list[Trace]:
    end = time.monotonic() + 20
    while len(found := list(read_traces(folder))) < count and time.monotonic() < end:
        time.sleep(0.02)
    return found


def test_openais_client_is_watched_in_two_lines(url: str, tmp_path: Path) -> None:
    with trace_client(openai.OpenAI(base_url=url, api_key="x", max_retries=0), tmp_path) as client:
        answer = client.chat.completions.create(model="m", messages=TURNS, temperature=0.5, user="C-1")
        assert answer.choices[0].message.content == "On its way."
        client.models.list()
        pieces = client.chat.completions.create(model="m", messages=TURNS, stream=True)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "On its way."
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model="busy", messages=TURNS)
    whole, streamed, refused = kept(tmp_path, 3)
    assert (whole.id, whole.user, whole.parameters, whole.status) == ("chatcmpl-1", "C-1", {"temperature": 0.5}, 200)
    assert (whole.prompt_tokens, whole.completion_tokens, whole.finish_reason) == (5, 2, "stop")
    assert whole.messages[0].content == "Where is it? [EMAIL]"
    assert (streamed.id, streamed.finish_reason) == ("chatcmpl-2", "length")
    assert streamed.answer is not None
    assert streamed.answer.content == "On its way."
    assert streamed.first_token_s is not None
    assert streamed.first_token_s < streamed.latency_s
    assert (refused.status, refused.error, refused.finish_reason, refused.model) == (429, "too many", "error", "busy")


def test_asynchronous_clients_and_streams_that_are_left(url: str, tmp_path: Path) -> None:
    async def story() -> None:
        client = trace_client(openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0), tmp_path)
        await client.chat.completions.create(model="m", messages=TURNS)
        stream = await client.chat.completions.create(model="m", messages=TURNS, stream=True)
        async for _ in stream:
            break
        await stream.close()
        await client.close()

    asyncio.run(story())
    whole, left = kept(tmp_path, 2)
    assert whole.answer is not None
    assert left.error == "broke off"
    assert left.answer is not None
    assert left.answer.content.startswith("On ")


def test_a_server_that_is_not_there_is_recorded_and_raised_as_before(tmp_path: Path) -> None:
    client = trace_client(openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="x", max_retries=0), tmp_path)
    with client, pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model="m", messages=TURNS)
    (failed,) = kept(tmp_path, 1)
    assert (failed.status, failed.error, failed.answer) == (599, "ConnectError", None)


def test_what_cannot_be_recorded_does_not_break_the_application(url: str, caplog: pytest.LogCaptureFixture) -> None:
    def broken(trace: Trace) -> None:
        raise RuntimeError("no room")

    with httpx.Client(transport=build_tracing_transport(broken)) as client:
        assert client.post(f"{url}/chat/completions", json={"model": "m", "messages": TURNS}).status_code == 200
    assert "could not be recorded" in caplog.text


def test_pictures_of_a_client_are_named_and_kept_where_that_is_asked_for(url: str, tmp_path: Path) -> None:
    medium, content = picture(1)
    data = base64.b64encode(content).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    far = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    turns: Any = [{"role": "user", "content": [part, {"type": "text", "text": " and "}, far, broken]}]
    for policy, kept in ((RetentionPolicy(), 0), (RetentionPolicy(media="bytes"), 1)):
        folder = tmp_path / policy.media
        with openai.OpenAI(base_url=url, api_key="x") as plain, trace_client(plain, folder, policy) as client:
            client.chat.completions.create(model="m", messages=turns)
            with pytest.raises(openai.RateLimitError):
                client.with_options(max_retries=0).chat.completions.create(model="busy", messages=turns)
        _recorder(folder, policy).flush()
        for trace in read_traces(folder):
            (turn,) = trace.messages
            assert turn.content == f"{MEDIA_MARK} and <image><image>"
            assert [one.digest for one in turn.media] == [medium.digest]
            assert data[:40] not in trace.model_dump_json()
        assert len(list_trace_media(folder)) == kept
        if kept:
            assert read_trace_media(folder, turn.media[0]) == content
