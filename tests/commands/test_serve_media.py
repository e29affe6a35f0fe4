"""A server that reads pictures, asked by OpenAI's own client and killed between requests: nothing is lost or mixed."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from luthier.core.store import Store
from luthier.models.lm.base import GenerateRequest
from luthier.models.lm.local import LocalLM
from luthier.traces.media import list_trace_media, read_trace_media
from luthier.traces.store import read_traces
from tests import ready
from tests.tiny_models import own_cache
from tuning import made
from vision_models import picture, shown, tiny_vision_model

PICTURES = [picture(seed, 36 + 4 * (seed % 3), 28) for seed in range(6)]
QUESTIONS = [f"what is number {number}?" for number in range(len(PICTURES))]


@pytest.fixture(scope="module")
def vision_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision_model(tmp_path_factory.mktemp("served-pictures") / "pictured")


@pytest.fixture(scope="module")
def expected(vision_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the model itself says of each picture."""

    def write(folder: Path) -> None:
        shutil.copytree(vision_model, folder, dirs_exist_ok=True)
        (folder / "model.json").write_text('{"name": "pictured"}')

    contents = {medium.digest: content for medium, content in PICTURES}
    model = made(Store(tmp_path_factory.mktemp("alone")), "pictured", "model", write)
    local = LocalLM(model, "float32", read_media=contents.__getitem__)
    asked = [shown(question, medium) for (medium, _), question in zip(PICTURES, QUESTIONS, strict=True)]
    return [local.generate([GenerateRequest(prompt=prompt, max_tokens=6)])[0].text for prompt in asked]


@pytest.fixture
def traffic(vision_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(vision_model.parent))
    monkeypatch.setenv("LUTHIER_PII_KEY", "for tests")
    monkeypatch.delenv("LUTHIER_LEDGER", raising=False)
    monkeypatch.setenv("LUTHIER_TRAFFIC", str(tmp_path / "traffic"))
    monkeypatch.chdir(vision_model.parent)
    return tmp_path / "traffic"


@contextmanager
def server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`luthier serve` in a process of its own that keeps pictures, and where it is."""
    words = ["serve", "./pictured", "--port", "0", "--json", "--keep", "{media: bytes}"]
    process = ready.Popen(
        [sys.executable, "-m", "luthier", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["url"]
    finally:
        process.kill()
        process.communicate()


@dataclass
class Clients:
    """Several that ask about one picture after the other, until the server is gone."""

    url: str
    answered: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By the request's id: which picture, and the answer."""

    def ask(self, client: openai.OpenAI, at: int, *, stream: bool) -> None:
        """One request."""
        url = f"data:image/png;base64,{base64.b64encode(PICTURES[at][1]).decode()}"
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTIONS[at]}]
        more: Any = {"model": "./pictured", "max_tokens": 6, "temperature": 0, "stream": stream}
        found: Any = client.chat.completions.create(messages=[{"role": "user", "content": parts}], **more)  # type: ignore[list-item]
        if not stream:
            self.answered[found.id] = at, found.choices[0].message.content
            return
        chunks = list(found)
        if chunks and chunks[-1].choices[0].finish_reason:
            self.answered[chunks[-1].id] = at, "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    def go_on(self, begin: int) -> None:
        """One client."""
        with openai.OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=60) as client:
            for turn, at in enumerate(islice(cycle(range(len(PICTURES))), begin, None)):
                try:
                    self.ask(client, at, stream=turn % 2 == 1)
                except openai.APIConnectionError:
                    return
                except httpx.HTTPError:  # a stream that breaks off
                    return

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.go_on, args=(begin,)) for begin in range(3)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.timeout(3600)
def test_a_killed_server_loses_and_mixes_no_picture(traffic: Path, expected: list[str], kills: int) -> None:
    answered: dict[str, tuple[int, str]] = {}
    for kill in range(kills):
        with server() as (process, url):
            clients = Clients(url)
            with clients.running():
                end = time.monotonic() + 120
                while len(clients.answered) < 6:
                    assert time.monotonic() < end, "no answers come"
                    time.sleep(0.005)
                time.sleep(0.013 * (kill % 20))
                process.kill()
        assert not answered.keys() & clients.answered.keys()
        answered |= clients.answered
    assert len(answered) >= 6 * kills
    wrong = [(at, text) for at, text in answered.values() if text != expected[at]]
    assert wrong == []
    with server() as (process, url), openai.OpenAI(base_url=url, api_key="none") as client:
        last = Clients(url)
        for at in range(len(PICTURES)):
            last.ask(client, at, stream=False)
        process.terminate()
        process.wait(60)
    traces = {trace.id: trace for trace in read_traces(traffic)}
    assert answered.keys() | last.answered.keys() <= traces.keys()
    assert all(traces[id].messages for id in last.answered)
    for id, (at, text) in {**answered, **last.answered}.items():
        for turn in traces[id].messages:  # a kill leaves the last traces without their words
            assert [medium.digest for medium in turn.media] == [PICTURES[at][0].digest]
            assert turn.content.endswith(QUESTIONS[at])
        if (found := traces[id].answer) is not None:
            assert found.content == text
    assert len(list_trace_media(traffic)) == len(PICTURES)
    assert all(read_trace_media(traffic, medium) == content for medium, content in PICTURES)
