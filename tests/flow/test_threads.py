"""How threads that wait for each other behave in the processes of the command line."""

from __future__ import annotations

import os

import pytest

from luthier.cli.app import run_command


@pytest.mark.parametrize(("variable", "wanted"), [("OPENBLAS_THREAD_TIMEOUT", "12"), ("GOMP_SPINCOUNT", "1000")])
def test_they_sleep_soon_unless_the_user_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, wanted: str
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv(variable, "20")
    assert run_command(["--help"]) == 0
    assert os.environ[variable] == "20"
    monkeypatch.delenv(variable)
    assert run_command(["--help"]) == 0
    assert os.environ[variable] == wanted
    assert "luthier" in capsys.readouterr().out
