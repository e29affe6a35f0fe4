"""Many at once, some of them rude: strangers, queues, deadlines, clients that vanish and clients that read slowly."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from luthier.core.artifact import Artifact
from luthier.models.generation.engine import ContinuousBatchingDecoder
from luthier.serve.engines.torch import TorchEngine
from luthier.traces.record import Route
from serving import Served, serving

WORDS = ["parcel", "invoice", "password", "refund", "address", "login", "price", "courier"]

HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n"
)


def asked(number: int, tokens: int = 12, **more: Any) -> dict[str, Any]:
    words = " ".join(WORDS[(number * step) % len(WORDS)] for step in range(1, 2 + number % 7))
    return {"model": "tiny", "messages": [{"role": "user", "content": words}], "max_tokens": tokens, **more}


@pytest.fixture
def serve(tmp_path: Path, tiny: Artifact) -> Callable[..., Any]:
    """Starts a gateway whose engine has given settings."""

    def start(engine: TorchEngine, **more: Any) -> Any:
        return serving({"tiny": lambda: engine.open(tiny)}, tmp_path / "ledger.db", **more)

    return start


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Lets each step of a decoder wait for the test; set, nothing waits any more."""
    free, once = threading.Event(), ContinuousBatchingDecoder.step

    def step(self: ContinuousBatchingDecoder) -> Any:
        free.wait(0.02)
        return once(self)

    monkeypatch.setattr(ContinuousBatchingDecoder, "step", step)
    yield free
    free.set()


def eventually(check: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def test_sixteen_strangers_are_answered_as_if_alone(served: Served) -> None:
    with served.client() as client:

        def say(number: int) -> tuple[str | None, Any]:
            more = {"temperature": 1.0, "seed": number} if number % 3 == 0 else {}
            found = client.chat.completions.create(**asked(number, 10 + number, logprobs=True, **more)).choices[0]
            told = (
                [(one.token, round(one.logprob, 4)) for one in (found.logprobs.content or ())] if found.logprobs else []
            )
            return found.message.content, told

        alone = [say(number) for number in range(16)]
        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(say, range(16))) == alone


def test_two_hundred_connections(served: Served) -> None:
    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=served.listening.url, api_key="x", max_retries=8, timeout=60) as client:

            async def one(number: int) -> str:
                stream = await client.chat.completions.create(**asked(number, 4), stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*(one(number) for number in range(200)))

    found = asyncio.run(all_of_them())
    with served.client() as client:
        wanted = client.chat.completions.create(**asked(3, 4)).choices[0].message.content
    assert found[3] == wanted
    assert len(found) == 200


def test_whoever_comes_when_too_many_wait_is_told_when_to_come_back(
    serve: Callable[..., Any], slowly: threading.Event
) -> None:
    with serve(TorchEngine(dtype="float32", max_num_seqs=1, max_queue_size=2)) as served, ThreadPoolExecutor(8) as pool:
        first = [pool.submit(served.post, "/v1/chat/completions", asked(0, 100)) for _ in range(3)]
        eventually(lambda: served.gateway.fleet.each()[0].answering.waiting == 2)
        refused = served.post("/v1/chat/completions", asked(1))
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        streamed = served.post("/v1/chat/completions", asked(1, stream=True))
        assert streamed.status_code == 429, "a stream is refused before it begins"
        slowly.set()
        assert [one.result().status_code for one in first] == [200, 200, 200]
        assert {one.status for one in served.heard.wait(5)} == {200, 429}


def test_a_deadline_ends_an_answer(serve: Callable[..., Any], slowly: threading.Event) -> None:
    with serve(TorchEngine(dtype="float32"), deadline_s=0.5) as served:
        response = served.post("/v1/chat/completions", asked(0, 400))
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "deadline_exceeded"
        with served.client() as client, pytest.raises(openai.APIError, match=r"within 0\.5 s"):
            list(client.chat.completions.create(**asked(0, 400), stream=True))
        eventually(lambda: served.gateway.fleet.each()[0].answering.running == 0)
        assert [(one.status, one.finish_reason) for one in served.heard.wait(2)] == [(504, "cancelled")] * 2


@pytest.mark.parametrize("stream", [False, True])
def test_for_clients_that_vanish_nothing_is_written(
    serve: Callable[..., Any], slowly: threading.Event, stream: bool
) -> None:
    with serve(TorchEngine(dtype="float32")) as served:
        body = json.dumps(asked(0, 450, stream=stream)).encode()
        model = served.gateway.fleet.each()[0].answering
        lines = [socket.create_connection((served.listening.host, served.listening.port)) for _ in range(8)]
        for line in lines:
            line.sendall(HEAD % len(body) + body)
        eventually(lambda: model.running == 8)
        for line in lines:
            line.close()
        eventually(lambda: model.running == 0)
        traces = served.heard.wait(8)
        assert {(one.status, one.finish_reason) for one in traces} == {(499, "cancelled")}
        slowly.set()
        assert served.post("/v1/chat/completions", asked(1)).status_code == 200


@pytest.mark.slow
def test_a_client_that_reads_slowly_delays_nobody(serve: Callable[..., Any]) -> None:
    with serve(TorchEngine(dtype="float32")) as served:
        body = json.dumps(asked(0, 450, stream=True, n=8, logprobs=True, top_logprobs=20)).encode()
        lines = []
        for _ in range(4):
            line = socket.socket()
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.connect((served.listening.host, served.listening.port))
            line.sendall(HEAD % len(body) + body)
            lines.append(line)
        for number in range(4):
            assert served.post("/v1/chat/completions", asked(number)).status_code == 200
        for line in lines:
            line.close()
        served.heard.wait(8)


def test_what_does_not_fit_is_refused_and_the_rest_goes_on(serve: Callable[..., Any]) -> None:
    with serve(TorchEngine(dtype="float32", max_num_batched_tokens=96)) as served:
        assert served.post("/v1/chat/completions", asked(0, 90)).status_code == 400
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda n: served.post("/v1/chat/completions", asked(n, 20)).status_code, range(12)))
        assert found == [200] * 12


def test_a_step_that_fails_is_told_and_the_next_requests_are_answered(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    once, broken = ContinuousBatchingDecoder.step, [True]

    def step(self: ContinuousBatchingDecoder) -> Any:
        if broken.pop() if broken else False:
            raise RuntimeError("out of memory")
        return once(self)

    with serve(TorchEngine(dtype="float32")) as served:
        monkeypatch.setattr(ContinuousBatchingDecoder, "step", step)
        response = served.post("/v1/chat/completions", asked(0))
        assert response.status_code == 500
        assert response.json()["error"]["message"] == "writing failed: RuntimeError"
        assert served.post("/v1/chat/completions", asked(0)).status_code == 200


def test_what_was_begun_is_finished_when_the_server_stops(serve: Callable[..., Any], slowly: threading.Event) -> None:
    with serve(TorchEngine(dtype="float32")) as served, ThreadPoolExecutor(4) as pool:
        running = [pool.submit(served.post, "/v1/chat/completions", asked(n, 40)) for n in range(3)]
        eventually(lambda: served.gateway.fleet.each()[0].answering.running == 3)
        served.listening.stop()
        assert [one.result().status_code for one in running] == [200] * 3
        eventually(lambda: not _listens(served))
        assert served.gateway.cut_off == 0


def test_what_takes_too_long_is_cut_off_when_the_server_stops(
    serve: Callable[..., Any], slowly: threading.Event
) -> None:
    with serve(TorchEngine(dtype="float32"), grace_s=1.0) as served, ThreadPoolExecutor(4) as pool:
        running = pool.submit(served.client().chat.completions.create, **asked(0, 480))
        eventually(lambda: served.gateway.fleet.each()[0].answering.running == 1)
        served.listening.stop()
        with pytest.raises(openai.APIError):
            running.result()
        assert served.gateway.cut_off == 1


def _listens(served: Served) -> bool:
    try:
        socket.create_connection((served.listening.host, served.listening.port), timeout=1).close()
    except OSError:
        return False
    return True


class Switch:
    """A resolver whose alias moves, with a shadow."""

    def __init__(self) -> None:
        self.route = Route(model="one", release="r1")

    def names(self) -> list[str]:
        return ["support@prod"]

    def resolve(self, name: str, user: str | None, request: str = "") -> Route | None:
        return self.route if name == "support@prod" else None

    def owners(self) -> Mapping[str, str | None]:
        return {}


def test_an_alias_moves_without_a_lost_request(tmp_path: Path, tiny: Artifact, caller: Artifact) -> None:
    switch = Switch()
    models = {
        "one": lambda: TorchEngine(dtype="float32").open(tiny),
        "two": lambda: TorchEngine(dtype="float32").open(caller),
    }
    with serving(models, tmp_path / "ledger.db", resolver=switch, open_now=False) as served:
        run = served.run
        assert served.listening.models == ["support@prod"], "the line that is printed names what is released, too"
        run(served.gateway.fleet.prepare("one"))
        assert [one["id"] for one in served.get("/v1/models").json()["data"]] == ["one", "support@prod"]
        with ThreadPoolExecutor(8) as pool:
            body = {**asked(0, 30), "model": "support@prod"}
            answers = [pool.submit(served.post, "/v1/chat/completions", body) for _ in range(20)]
            assert run(served.gateway.fleet.prepare("two")) == caller.digest
            switch.route = Route(model="two", variant="canary", shadow="two")
            run(served.gateway.fleet.retire("one"))
            answers += [pool.submit(served.post, "/v1/chat/completions", body) for _ in range(5)]
            assert [one.result().status_code for one in answers] == [200] * 25
        traces = served.heard.wait(30)
        assert {(one.variant, one.release) for one in traces} <= {
            ("stable", "r1"), ("canary", caller.digest), ("shadow", caller.digest),
        }  # fmt: skip
        shadows = [one for one in traces if one.variant == "shadow"]
        assert {one.meta["shadow_of"] for one in shadows} <= {one.id for one in traces}
        assert served.post("/v1/chat/completions", {**asked(0), "model": "one"}).status_code == 404
