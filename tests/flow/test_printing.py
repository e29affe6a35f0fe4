"""Where commands print: outputs that are closed, full, or lack letters are no fault of Luthier's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def _run(*words: str, to: int | None = None, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own; `to` is its standard output."""
    return subprocess.run(
        [sys.executable, "-m", "luthier", *words],
        stdout=subprocess.PIPE if to is None else to,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
        check=False,
    )


@pytest.mark.parametrize("words", [("parts", "metric"), ("parts", "source", "--json"), ("--version",), ("--help",)])
def test_an_output_that_takes_nothing_is_named(words: tuple[str, ...]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        found = _run(*words, to=full)
    finally:
        os.close(full)
    assert found.returncode == 2
    assert found.stderr.startswith("error: standard output: the disk is full")
    assert "Traceback" not in found.stderr


def test_an_output_that_is_closed_is_done_without() -> None:
    found = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m luthier parts source --json >&-"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")


def test_letters_that_the_output_has_not_are_escaped(tmp_path: Path) -> None:
    rows = "".join(f"where is parcel {n}?,{('billing', 'delivery')[n % 2]}\n" for n in range(40))
    (tmp_path / "t.csv").write_text(f"text,label\n{rows}")
    told = {"PYTHONIOENCODING": "ascii"}
    found = _run("new", str(tmp_path / "made"), "--from", str(tmp_path / "t.csv"), env=told)
    assert found.returncode == 0, found.stderr
    assert "\\xb7 t.csv: 40 rows" in found.stdout
    found = _run("new", str(tmp_path / "more"), "--from", str(tmp_path / "t.csv"), "--json", env=told)
    assert json.loads(found.stdout)
