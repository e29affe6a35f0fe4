"""A run is told to stop, or its terminal closes: it stops, and what it has learnt is kept."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from luthier.cli.app import run_command
from tests.tiny_models import RECIPE, own_cache, small_recipe

LONG = RECIPE.split("  report:")[0].replace("batch_size: 8", "batch_size: 8\n    epochs: 99\n    save_steps: 1")


def _at(terminal: int) -> None:
    """Sit at a terminal whose end is heard of, also where `nohup` started the tests."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.login_tty(terminal)


def test_a_closed_terminal_interrupts_and_loses_nothing(tmp_path: Path) -> None:
    small_recipe(tmp_path, LONG)
    environment = {**os.environ, "LUTHIER_CACHE": own_cache(tmp_path), "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    terminal, inside = os.openpty()
    command = [sys.executable, "-m", "luthier", "run", "recipe.yaml"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment,
        preexec_fn=lambda: _at(inside),  # noqa: PLW1509  # nothing else makes a terminal the child's own
    ) as process:  # fmt: skip
        os.close(inside)
        while b"loss" not in os.read(terminal, 4096):
            pass
        os.close(terminal)
    assert process.returncode == 130
    ledger = sqlite3.connect(tmp_path / ".luthier" / "ledger.db")
    assert ledger.execute("select state from runs").fetchall() == [("interrupted",)]
    ledger.close()
    (kept,) = (tmp_path / ".luthier" / "work").glob("*/scratch/checkpoint.safetensors")
    with safe_open(kept, framework="pt") as file:
        assert int(file.metadata()["step"]) > 0


def test_a_run_under_nohup_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_command(["--version"]) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_ctrl_c_that_a_library_swallows_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_recipe(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained

    def swallowing(*how: Any, **more: Any) -> Any:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return opened(*how, **more)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", swallowing)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a script's `&` started the tests
    try:
        assert run_command(["run", "recipe.yaml"]) == 130
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        assert run_command(["run", "recipe.yaml"]) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    ledger = sqlite3.connect(tmp_path / ".luthier" / "ledger.db")
    assert ledger.execute("select state from runs order by started_at").fetchall() == [("interrupted",), ("done",)]
    ledger.close()
