"""A workspace in a folder of its own, and a browser that has opened the studio's link."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import argon2
import pytest
from argon2.profiles import CHEAPEST
from starlette.testclient import TestClient

from luthier.cli.app import run_command
from luthier.commands.projects.command_process import CommandProcess
from luthier.core.db import Ledger
from luthier.core.system.process import unique_process_name_of
from luthier.people import passwords
from luthier.recipe.workspace import Workspace
from luthier.studio.app import build_app
from luthier.studio.sessions import form_token
from luthier.studio.state import Studio
from tests import ready

URL = "http://127.0.0.1:8100"
RECIPE = """\
# what people ask
luthier: 1
name: tickets
steps:
  data:
    kind: prepare
    source: {kind: csv, path: rows.csv, prompt: text, answer: label}  # two columns
    ops: [normalize, exact_dedup]
    split: {test: 0.2}
    task: label
  tune: {kind: tune, data: data, technique: plain}
  report: {kind: evaluate, data: data, model: tune, metrics: [accuracy]}
"""
WORDS = {"delivery": "where is my parcel", "refund": "give me the money back", "account": "I cannot log in at all"}


def write_rows(path: Path, rows: int = 60) -> None:
    """A table of texts and labels, five of them twice."""
    labels = [list(WORDS)[at % len(WORDS)] for at in range(rows - 5)]
    lines = [f"{WORDS[label]} number {at},{label}" for at, label in enumerate(labels)]
    lines += lines[:5]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")


def run_in(folder: Path, *words: str) -> str:
    """What a command prints that is run in a folder, by this process."""
    with chdir(folder), redirect_stdout(StringIO()) as said:
        assert run_command(list(words)) == 0
    return said.getvalue()


def start_studio(
    workspace: Path, *words: str, popen: type[subprocess.Popen[Any]] = ready.Family, **environment: str
) -> subprocess.Popen[str]:
    """`luthier studio … --port 0 --json` in a process of its own, which has imported already where nothing is said."""
    command = [sys.executable, "-m", "luthier", "studio", str(workspace), *words, "--port", "0", "--json"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return popen(command, stdout=subprocess.PIPE, text=True, env=env)


class Browser(TestClient):
    """A browser: its forms carry the session's token and come from the studio's own pages."""

    def submit(self, address: str, /, **fields: Any) -> Any:
        """Send a form."""
        files = fields.pop("files", None)
        token = form_token(self.cookies.get("luthier_studio") or "")
        return self.post(address, data={"token": token, **fields}, files=files, headers={"origin": URL})


@pytest.fixture(autouse=True)
def ready_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that pages start have imported already."""
    monkeypatch.setattr(subprocess, "Popen", ready.Relative)


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of passwords take argon2's own profile for tests; tests/people has them as they are."""
    hasher = argon2.PasswordHasher.from_parameters(CHEAPEST)
    monkeypatch.setattr(passwords, "_hasher", lambda: hasher)
    monkeypatch.setattr(passwords, "_dummy_hash", lambda: hasher.hash("no password is this one"))


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with no project; it is not the current one."""
    for name in ("LUTHIER_STORE", "LUTHIER_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "projects").mkdir()
    return tmp_path / "projects"


@pytest.fixture
def project(workspace: Path) -> Path:
    """A project in it."""
    folder = workspace / "tickets"
    folder.mkdir()
    write_rows(folder / "rows.csv")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def run_project(folder: Path, recipe: str) -> Path:
    """A project of tickets that was run."""
    folder.mkdir()
    write_rows(folder / "rows.csv")
    (folder / "recipe.yaml").write_text(recipe)
    run_in(folder.parent, "run", "tickets/recipe.yaml")
    return folder


def copy_project(made: Path, workspace: Path) -> Path:
    """The project in a workspace, with all that it made."""
    shutil.copytree(made, workspace / "tickets")
    with sqlite3.connect(workspace / "tickets/.luthier/ledger.db") as ledger:
        ledger.execute("UPDATE runs SET folder = ?", [str(workspace / "tickets")])
    ledger.close()
    return workspace / "tickets"


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was run, made once."""
    return run_project(tmp_path_factory.mktemp("made") / "tickets", RECIPE)


@pytest.fixture
def made(_made: Path, workspace: Path) -> Path:
    """The project in this test's workspace, with all that it made."""
    return copy_project(_made, workspace)


@pytest.fixture
def failed_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that pages start have failed at once and repeat their words, for tests that ask every address; that
    they run is shown by tests of their own pages."""
    ended = unique_process_name_of(os.getpid()).rpartition("|")[0] + "|gone"

    def fail(self: CommandProcess, workspace: Workspace, words: Sequence[str]) -> None:
        self.folder.mkdir(0o700, parents=True, exist_ok=True)
        said = json.dumps({"error": {"message": " ".join(words), "hint": " ".join(words)}})
        for name, text in {"output": said, "log": said, "process": json.dumps({"name": ended, "words": words})}.items():
            (self.folder / name).write_text(text)

    monkeypatch.setattr(CommandProcess, "start", fail)


@pytest.fixture
def studio(workspace: Path) -> Iterator[Studio]:
    """What all pages share; nothing runs the queue."""
    with Ledger(workspace / ".luthier/ledger.db") as ledger:
        made = Studio(ledger=ledger, workspace=Workspace.open(workspace))
        yield made
        made.review.close()
        for processes in made._processes.values():
            for process in processes.signals._processes.values():
                process.stop()


@pytest.fixture
def stranger(studio: Studio) -> Browser:
    """A browser without a session."""
    return Browser(build_app(studio, upload_bytes=5 << 20), base_url=URL)


@pytest.fixture
def browser(studio: Studio, stranger: Browser) -> Browser:
    """A browser that opened the link."""
    assert stranger.get(f"/open?token={studio.sessions.create_link_token()}").status_code == 200
    return stranger
