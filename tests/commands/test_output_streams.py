"""Where commands print: outputs that are closed, full, or lack letters are no fault of Luthier's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.cli.app import run_command
from luthier.cli.output import print_table
from tests.tiny_models import tickets, write_csv


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


AT_ONCE = [{"PYTHONUNBUFFERED": "1"}, {"PYTHONUNBUFFERED": ""}]
LISTED, OTHERS = [("components", "metric"), ("--help",)], [("components", "source", "--json"), ("--version",)]
PRINTED = [(LISTED[0], AT_ONCE[0]), (LISTED[1], AT_ONCE[1]), (OTHERS[0], AT_ONCE[1]), (OTHERS[1], AT_ONCE[0])]
"""A table and a page of help, data and a line; each kind of output written as it comes and at the end."""


@pytest.mark.parametrize(("words", "env"), PRINTED)
def test_an_output_that_takes_nothing_is_named(words: tuple[str, ...], env: dict[str, str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        found = _run(*words, to=full, env=env)
    finally:
        os.close(full)
    assert found.returncode == 2
    assert found.stderr.startswith("error: standard output: the disk is full")
    assert "Traceback" not in found.stderr


def test_an_output_that_is_closed_is_done_without() -> None:
    found = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m luthier components source --json >&-"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize(("words", "env"), PRINTED)
def test_where_nobody_reads_on_a_command_ends_as_it_would(words: tuple[str, ...], env: dict[str, str]) -> None:
    found = _unread(*words, env=env)
    assert (found.returncode, found.stderr) == (0, "")


def _unread(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    gone, to = os.pipe()
    os.close(gone)
    try:
        return _run(*words, to=to, env=env)
    finally:
        os.close(to)


@pytest.mark.matrix("env1")
@pytest.mark.parametrize("env", AT_ONCE)
def test_a_gates_verdict_is_the_exit_code_though_nobody_reads_on(tmp_path: Path, env: dict[str, str]) -> None:
    write_csv(tmp_path / "tickets.csv", tickets(60))
    source = "{kind: csv, path: tickets.csv, prompt: message, answer: category}"
    rules = '["classes.few > 1000000"]'
    (tmp_path / "recipe.yaml").write_text(
        f"luthier: 1\nname: small\nsteps:\n  data: {{kind: prepare, source: {source}}}\n"
        f"  validate: {{kind: validate, data: data, checks: [imbalance]}}\n"
        f"  gate: {{kind: gate, findings: validate, rules: {rules}}}\n"
    )
    assert _unread("run", str(tmp_path), env=env).returncode == 1


def test_a_table_stands_row_by_row_where_its_words_would_be_torn_to_pieces(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    header = ("step", "kind", "state", "time", "peak memory", "how we know")
    rows = [
        ("data", "prepare", "cached", "", "", "76801ed4b50a"),
        ("tune", "tune", "to make", "20 s", "1.6 GB", "told"),
    ]
    monkeypatch.setenv("COLUMNS", "40")
    print_table(header, rows)
    shown = capsys.readouterr().out.splitlines()
    assert shown[:4] == ["data", "  kind         prepare", "  state        cached", "  how we know  76801ed4b50a"]
    assert "  peak memory  1.6 GB" in shown
    print_table(("operator", "what it does"), [("pii", "Find e-mail, phones, cards, IBANs, national ids.")])
    assert capsys.readouterr().out.splitlines()[0].split() == ["operator", "what", "it", "does"]


def test_the_details_of_a_fault_are_for_its_owners_eyes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise RuntimeError("row of anna@example.com")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("luthier.cli.app._command", lambda: failing)
    assert run_command(["components"]) == 4
    (kept,) = tmp_path.glob("luthier-fault-*.txt")
    assert str(kept) in capsys.readouterr().err
    assert "RuntimeError" in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0


def test_letters_that_the_output_has_not_are_escaped(tmp_path: Path) -> None:
    rows = "".join(f"where is parcel {n}?,{('billing', 'delivery')[n % 2]}\n" for n in range(40))
    (tmp_path / "t.csv").write_text(f"text,label\n{rows}")
    told = {"PYTHONIOENCODING": "ascii"}
    found = _run("new", str(tmp_path / "made"), "--from", str(tmp_path / "t.csv"), env=told)
    assert found.returncode == 0, found.stderr
    assert "\\xb7 t.csv: 40 rows" in found.stdout
    found = _run("new", str(tmp_path / "more"), "--from", str(tmp_path / "t.csv"), "--json", env=told)
    assert json.loads(found.stdout)
