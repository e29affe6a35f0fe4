"""A whole server under fire: killed under load, its database away, and slow clients."""

from __future__ import annotations

import csv
import io
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from fine_tuning import as_lines, chats
from luthier.cli.app import run_command
from luthier.traces.store import read_feedback, read_traces
from tests import ready
from tests.conftest import Postgres
from tests.tiny_models import own_cache, small_recipe, tiny_model

ALIAS = "support@prod"
ASKED: dict[str, Any] = {
    "model": ALIAS,
    "messages": [{"role": "user", "content": "Where is my parcel?"}],
    "max_tokens": 4,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the small recipe was run."""
    folder = tmp_path_factory.mktemp("reliable")
    small_recipe(folder)
    with pytest.MonkeyPatch.context() as patch:
        _here(folder, patch)
        assert run_command(["run"]) == 0
    return folder


def _here(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("LUTHIER_CACHE", own_cache(folder))
    patch.setenv("LUTHIER_PII_KEY", "for tests")
    patch.delenv("LUTHIER_LEDGER", raising=False)
    patch.chdir(folder)


@pytest.fixture(autouse=True)
def traffic(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test keeps its traffic apart."""
    _here(made, monkeypatch)
    monkeypatch.setenv("LUTHIER_TRAFFIC", str(tmp_path / "traffic"))
    return tmp_path / "traffic"


@contextmanager
def server(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`luthier serve` in a process of its own, and where it is."""
    command = [sys.executable, "-m", "luthier", "serve", *words, "--port", "0", "--json"]
    process = ready.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["url"]
    finally:
        process.kill()
        process.communicate()


@dataclass
class Load:
    """Clients that ask, and say what they think of each answer, until the server is gone or they are told to stop."""

    url: str
    answered: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def go_on(self) -> None:
        """One client."""
        with httpx.Client(base_url=self.url, timeout=300, trust_env=False) as client:
            while not self.stop.is_set():
                try:
                    self._ask(client)
                except httpx.HTTPError:
                    return

    def _ask(self, client: httpx.Client) -> None:
        response = client.post("chat/completions", json={**ASKED, "stream": len(self.answered) % 2 == 0})
        if response.status_code != 200:
            self.refused.append(response.status_code)
            return
        whole = not response.headers["content-type"].startswith("text/event-stream") or "[DONE]" in response.text
        if whole:
            self.answered.append(response.headers["x-request-id"])
            told = {"id": self.answered[-1], "thumb": "down", "user": "C-1"}
            heard = client.post("feedback", json=told).status_code
            if heard == 200:
                self.said.append(told["id"])
            else:
                self.refused.append(heard)

    @contextmanager
    def running(self, clients: int = 4) -> Iterator[None]:
        """Several clients at once."""
        threads = [threading.Thread(target=self.go_on) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()


def eventually(check: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def all_there(folder: Path, answered: set[str], said: set[str]) -> None:
    """Every answer and every opinion stands once; what was on its way is written after a kill."""
    assert answered, "clients were answered"
    assert said, "and said what they think"
    kept, heard = list[str](), list[str]()

    def is_written() -> bool:
        kept[:] = [one.id for one in read_traces(folder)]
        heard[:] = [one.trace for one in read_feedback(folder)]
        return answered <= set(kept) and said <= set(heard)

    eventually(is_written, 60)
    assert len(kept) == len(set(kept))
    assert len(heard) == len(set(heard))


def _release(of: str) -> None:
    assert run_command(["release", ALIAS, of]) == 0


def say(figure: str, **told: Any) -> None:
    """What `benchmarks/reliability.py` keeps of a run."""
    sys.stdout.write(json.dumps({"figure": figure, **told}) + "\n")


def say_all_there(figure: str, load: Load, **more: Any) -> None:
    say(figure, **more, answers=len(load.answered), opinions=len(load.said), refused=len(load.refused), lost=0)


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=5, timeout=60)


def begun_job(url: str) -> str:
    """A job of many small steps, which all the servers work at."""
    with client_of(url) as client:
        rows = client.files.create(file=("rows.jsonl", as_lines(chats(60))), purpose="fine-tune").id
        more: Any = {"n_epochs": 50, "batch_size": 1}
        return client.fine_tuning.jobs.create(model="tuned", training_file=rows, hyperparameters=more).id


def steps_of(url: str, job: str) -> list[int]:
    """The steps of a job that has ended well."""
    with client_of(url) as client:
        eventually(lambda: client.fine_tuning.jobs.retrieve(job).status not in ("queued", "running"), 900)
        done = client.fine_tuning.jobs.retrieve(job)
        assert done.status == "succeeded", [one.message for one in client.fine_tuning.jobs.list_events(job)]
        rows = csv.DictReader(io.StringIO(client.files.content(done.result_files[0]).text))
        return [int(row["step"]) for row in rows]


@pytest.mark.parametrize("kills", [1, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.timeout(3600)
def test_a_server_that_is_killed_under_load_loses_nothing(made: Path, traffic: Path, kills: int) -> None:
    _release(":tune")
    tiny_model(made / "tiny-model")
    words = ("--tune", "tuned=./tiny-model") if kills > 1 else ()
    whole, job = Load(""), ""
    for kill in range(kills):
        with server(*words) as (process, url):
            job = job or (begun_job(url) if kills > 1 else "")
            load = Load(url)
            with load.running():
                eventually(lambda load=load: len(load.answered) >= 6)  # type: ignore[misc]  # bound at once
                time.sleep(0.013 * (kill % 20))
                process.send_signal(signal.SIGKILL)
        assert load.refused == []
        whole.answered += load.answered
        whole.said += load.said
        check_ledger(made)
    all_there(traffic, set(whole.answered), set(whole.said))
    say_all_there("killed_under_load", whole, kills=kills)
    if kills > 1:
        with server(*words) as (_, url):
            assert steps_of(url, job) == list(range(1, 3001)), "each step once"
        say("job_goes_on", kills=kills, steps=3000, missing=0, doubled=0)


def check_ledger(folder: Path) -> None:
    """No page of the ledger is half written, and no row names another that is not there."""
    with closing(sqlite3.connect(folder / ".luthier" / "ledger.db")) as ledger:
        assert ledger.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert ledger.execute("PRAGMA foreign_key_check").fetchall() == []


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.timeout(1800)
def test_while_postgresql_is_away_requests_are_answered_and_kept(
    made: Path, traffic: Path, own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    monkeypatch.setenv("LUTHIER_LEDGER", own_postgres.url)
    _release(":tune")
    with server() as (_, url), (load := Load(url)).running():
        eventually(lambda: len(load.answered) >= 4)
        own_postgres.stop()
        before = len(load.answered)
        time.sleep(seconds)
        assert len(load.answered) > before, "requests are answered meanwhile"
        own_postgres.start()
        before = len(load.answered)
        _release(":model")
        eventually(lambda: len({one.release for one in read_traces(traffic)}) == 2)
        assert len(load.answered) > before
    assert load.refused == []
    all_there(traffic, set(load.answered), set(load.said))
    say_all_there("postgresql_away", load, seconds=seconds)


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.timeout(1800)
def test_while_sqlite_is_locked_requests_are_answered_and_kept(made: Path, traffic: Path, seconds: int) -> None:
    _release(":tune")
    with server() as (_, url), (load := Load(url)).running():
        eventually(lambda: len(load.answered) >= 4)
        with closing(sqlite3.connect(made / ".luthier" / "ledger.db", isolation_level=None, timeout=60)) as ledger:
            ledger.execute("BEGIN EXCLUSIVE")
            before = len(load.answered)
            time.sleep(seconds)
            assert len(load.answered) > before
            ledger.execute("ROLLBACK")
        _release(":model")
        eventually(lambda: len({one.release for one in read_traces(traffic)}) == 2)
    assert load.refused == []
    all_there(traffic, set(load.answered), set(load.said))
    say_all_there("sqlite_locked", load, seconds=seconds)


def resident_kb(process: int) -> int:
    """How much memory a process holds now."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n"
)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.timeout(600)
def test_sixty_four_clients_that_read_slowly_harm_nobody(traffic: Path) -> None:
    _release(":model")
    body = json.dumps(
        {**ASKED, "max_tokens": 200, "stream": True, "n": 4, "logprobs": True, "top_logprobs": 20}
    ).encode()
    with server() as (process, url):
        host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
        httpx.post(f"{url}/chat/completions", json=ASKED, timeout=300, trust_env=False)
        before = resident_kb(process.pid)
        lines = [socket.socket() for _ in range(64)]
        try:
            for line in lines:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                line.connect((host, int(port)))
                line.sendall(HEAD % len(body) + body)
            statuses = [_asked(url) for _ in range(4)]
            assert set(statuses) <= {200, 429}
            grown = resident_kb(process.pid) - before
        finally:
            for line in lines[:32]:
                line.close()  # the half of them vanishes
        eventually(lambda: _asked(url) == 200)
        for line in lines:
            line.close()
        say("slow_clients_take", clients=64, value=grown // 1024, unit="MiB")
        assert grown < 300_000, f"{grown / 1024:.0f} MiB more"


def _asked(url: str) -> int:
    return httpx.post(f"{url}/chat/completions", json=ASKED, timeout=300, trust_env=False).status_code
