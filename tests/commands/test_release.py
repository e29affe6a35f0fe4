"""The whole way on a tiny model: released, served, asked by OpenAI's client, switched, killed, and read back."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from luthier.cli.app import run_command
from luthier.traces.store import read_latest_feedback, read_traces
from tests import ready
from tests.tiny_models import own_cache, small_recipe

ALIAS = "support@prod"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the small recipe was run, and its tuned model released."""
    folder = tmp_path_factory.mktemp("released")
    small_recipe(folder)
    with pytest.MonkeyPatch.context() as patch:
        _here(folder, patch)
        assert run_command(["run"]) == 0
        assert run_command(["release", ALIAS, ":tune"]) == 0
    return folder


def _here(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("LUTHIER_CACHE", own_cache(folder))
    patch.setenv("LUTHIER_PII_KEY", "for tests")
    patch.delenv("LUTHIER_TRAFFIC", raising=False)
    patch.delenv("LUTHIER_LEDGER", raising=False)
    patch.chdir(folder)


@pytest.fixture(autouse=True)
def _inside(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _here(made, monkeypatch)


@contextmanager
def server() -> Iterator[tuple[subprocess.Popen[str], openai.OpenAI]]:
    """`luthier serve` in a process of its own, and a client."""
    command = [sys.executable, "-m", "luthier", "serve", "--port", "0", "--json"]
    process = ready.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        yield process, openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=300)
    finally:
        process.kill()
        process.communicate()


def ask(client: openai.OpenAI, text: str, user: str = "C-1") -> str:
    """Ask, and return the id that the client was given."""
    turns = [{"role": "user", "content": text}]
    answer = client.chat.completions.create(model=ALIAS, messages=turns, user=user, max_completion_tokens=4)  # type: ignore[arg-type]  # plain mappings do
    return answer.id


def kept(folder: Path, wanted: set[str]) -> list[str]:
    """Ids in the order of time, once those that are wanted are written."""
    end = time.monotonic() + 30
    while True:
        found = [one.id for one in read_traces(folder / ".luthier" / "traffic")]
        if wanted <= set(found) or time.monotonic() > end:
            return found
        time.sleep(0.05)


@pytest.mark.slow  # up to a minute on a busy machine
def test_a_switch_and_a_roll_back_lose_no_request(made: Path) -> None:
    with server() as (process, client):
        assert ALIAS in [model.id for model in client.models.list()]
        done, failed, stop = list[str](), list[Exception](), threading.Event()

        def go_on() -> None:
            while not stop.is_set():
                try:
                    done.append(ask(client, "Where is my parcel? Write to anna@example.org"))
                except openai.OpenAIError as error:
                    failed.append(error)

        threads = [threading.Thread(target=go_on) for _ in range(2)]
        for thread in threads:
            thread.start()
        folder = made / ".luthier" / "traffic"
        while not done and not failed:
            time.sleep(0.05)
        for words, is_seen in (
            ([ALIAS, ":model"], lambda found: len({one.release for one in found}) == 2),
            (["rollback", ALIAS], lambda found: found[-1].release == found[0].release),
            ([ALIAS, ":model", "--canary", "50%"], lambda found: True),
        ):
            assert run_command(["release", *words]) == 0
            end = time.monotonic() + 300
            while not is_seen(list(read_traces(folder))):
                assert time.monotonic() < end, "the switch did not come"
                time.sleep(0.2)
        stop.set()
        for thread in threads:
            thread.join()
        end = time.monotonic() + 300
        while "canary" not in {one.variant for one in read_traces(folder)}:
            assert time.monotonic() < end, "nobody was answered by the canary"
            done += [ask(client, "Hello", f"C-{user}") for user in range(8)]
        assert failed == []
        process.kill()
    found = [one for one in kept(made, set(done)) if one in set(done)]  # others of this folder were answered, too
    assert sorted(found) == sorted(done)
    every = list(read_traces(folder))
    assert {one.variant for one in every} == {"stable", "canary"}
    assert all("anna@example.org" not in turn.content for one in every for turn in one.messages)
    assert run_command(["release", "compare", ALIAS]) == 0
    assert run_command(["release", "rollback", ALIAS]) == 0


@pytest.mark.slow  # tests/commands/test_serve_reliability.py has one each time
@pytest.mark.parametrize("kills", [1, 10])
def test_a_kill_under_load_loses_no_answer(made: Path, kills: int) -> None:
    for _ in range(kills):
        done, threads = list[str](), list[threading.Thread]()
        with server() as (process, client):

            def go_on(client: openai.OpenAI = client, done: list[str] = done) -> None:
                try:
                    while True:
                        done.append(ask(client, "Where is my parcel?"))
                except openai.OpenAIError:
                    return

            threads = [threading.Thread(target=go_on) for _ in range(4)]
            for thread in threads:
                thread.start()
            while len(done) < 10:
                time.sleep(0.01)
            process.kill()
            for thread in threads:
                thread.join()
        found = kept(made, set(done))
        assert set(done) <= set(found)
        assert len(found) == len(set(found))


def test_feedback_comes_back(made: Path) -> None:
    with server() as (process, client):
        name = ask(client, "Where is my parcel?")
        answer = client.post("/feedback", body={"id": name, "thumb": "down", "correction": "account"}, cast_to=object)
        assert answer["id"] == name  # type: ignore[index]  # a mapping
        assert name in kept(made, {name})
        process.kill()
    end = time.monotonic() + 30
    while name not in (found := read_latest_feedback(made / ".luthier" / "traffic")) and time.monotonic() < end:
        time.sleep(0.05)
    assert found[name][0].correction == "account"
