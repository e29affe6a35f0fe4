"""The command `luthier studio`, and what it adds to `luthier new`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from luthier.cli.app import run_command
from luthier.core.db import Ledger
from luthier.people.accounts import add_person
from luthier.recipe.schema import Recipe
from studio.conftest import start_studio, write_rows


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "studio.example"])  # that is refused
def test_it_is_not_opened_to_others(workspace: Path, capsys: pytest.CaptureFixture[str], host: str) -> None:
    assert run_command(["studio", "--host", host]) == 2
    assert "no user accounts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--url", "https://studio.example"], "no user accounts"),
        (["--oidc", "https://login.example", "--client-id", "x"], "no user accounts"),
        (["--oidc", "https://login.example"], "needs a client"),
        (["--client-id", "x"], "name the provider"),
        (["--oidc", "https://x", "--client-id", "x", "--client-secret-env", "NO_SUCH_NAME"], "NO_SUCH_NAME is empty"),
        (["--oidc", "https://x", "--client-id", "x", "--oidc-role", "boss"], "no role 'boss'"),
        (["--url", "studio.example"], "not an address"),
        (["--url", "https://studio.example/path"], "not an address"),
    ],
)
def test_options_that_do_not_go_are_refused(
    workspace: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert run_command(["studio", str(workspace), *options]) == 2
    assert said in capsys.readouterr().err


def test_with_accounts_it_is_opened_to_others(workspace: Path) -> None:
    with Ledger(workspace / ".luthier/ledger.db") as ledger:
        add_person(ledger, "olga", roles={"*": "owner"}, by="root")
    with start_studio(workspace, "--host", "0.0.0.0") as server:
        assert server.stdout is not None
        told = json.loads(server.stdout.readline())
        assert told["link"] == f"{told['url']}/login"
        port = told["url"].rpartition(":")[2]
        for host, status in (("127.0.0.1", 200), ("192.168.0.7", 200), ("evil.example", 403)):
            asked = urllib.request.Request(f"http://127.0.0.1:{port}/login", headers={"host": f"{host}:{port}"})
            try:
                assert urllib.request.urlopen(asked, timeout=60).status == status
            except urllib.error.HTTPError as error:
                assert error.code == status  # noqa: PT017  # both are an answer
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0


def test_a_folder_that_is_not_there_is_said(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["studio", "nowhere"]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_it_listens_says_where_and_stops(workspace: Path) -> None:
    command = [sys.executable, "-m", "luthier", "studio", str(workspace), "--port", "0", "--json"]
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}) as server:
        assert server.stdout is not None
        told = json.loads(server.stdout.readline())
        with urllib.request.urlopen(f"{told['url']}/health", timeout=60) as answer:
            assert json.load(answer) == {"status": "ok"}
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(told["url"], timeout=60)
        assert urllib.request.urlopen(told["link"], timeout=60).status == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    assert (workspace / ".luthier/ledger.db").is_file()


def test_a_proposed_operator_is_left_out_and_a_plain_classifier_is_made(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    write_rows(workspace / "rows.csv")
    assert run_command(["new", "all", "--from", "rows.csv"]) == 0
    assert run_command(["new", "some", "--from", "rows.csv", "--without", "exact_dedup", "--technique", "plain"]) == 0
    every, some = (Recipe.load(workspace / name / "recipe.yaml") for name in ("all", "some"))
    kinds = [[op["kind"] for op in one.model_dump()["steps"]["data"]["ops"]] for one in (every, some)]
    assert kinds[1] == [kind for kind in kinds[0] if kind != "exact_dedup"]
    assert some.model is None
    assert some.model_dump()["steps"]["tune"]["technique"]["kind"] == "plain"
    capsys.readouterr()
    assert run_command(["new", "none", "--from", "rows.csv", "--without", "exact_dedupe"]) == 2
    assert "exact_dedup" in capsys.readouterr().err
    assert run_command(["new", "none", "--technique", "plain"]) == 2
    assert run_command(["new", "none", "--from", "axolotl.yaml", "--technique", "plain"]) == 2
    assert "change what is proposed for data" in capsys.readouterr().err
    (workspace / "texts.csv").write_text(
        "prompt,answer\n" + "".join(f"q {at}?,it is {at} of them\n" for at in range(40))
    )
    assert run_command(["new", "none", "--from", "texts.csv", "--technique", "plain"]) == 2
    assert "free text" in capsys.readouterr().err
    assert not (workspace / "none/recipe.yaml").exists()
