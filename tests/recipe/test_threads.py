"""How threads that wait for each other behave in the processes of the command line, and from Python."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from luthier.cli.app import run_command
from luthier.recipe.schema import Recipe
from tiny_models import small_recipe


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


def test_a_run_from_python_sets_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    Recipe.load(small_recipe(tmp_path)).run(only=["data"])
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    Recipe.load(small_recipe(tmp_path)).run(only=["data"])
    assert "GOMP_SPINCOUNT" not in os.environ
