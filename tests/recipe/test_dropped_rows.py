"""Rows that a data set left out are listed by a command, and rows without a label are given to annotators."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from luthier.cli.app import run_command
from tiny_models import tickets

EXPORTS = {"label-studio": "labels.xml", "argilla": "settings.json", "doccano": "labels.json"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A recipe that `new` writes for a file with quoted cells over two lines, copies, and rows without a label."""
    monkeypatch.setenv("LUTHIER_PII_KEY", "a key for tests")
    rows = [[row["message"], row["category"]] for row in tickets(120)]
    for number, row in enumerate(rows):
        row[0] = row[0].replace(" ", "\n", 1) if number % 3 == 0 else row[0]
    for number in range(60, 66):
        rows[number][0] += " Write to ann@example.com please."
    for number, word in zip((20, 21, 22, 23), ("printer", "window seat", "coffee grinder", "red bicycle"), strict=True):
        rows[number] = [f"jo@example.com\nwants to know of the {word} that is not here", ""]
    rows[40] = list(rows[39])
    with (tmp_path / "tickets.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["message", "category"], *rows, ["one", "two", "three"]])
    monkeypatch.chdir(tmp_path)
    assert run_command(["new", "desk", "--from", "tickets.csv"]) == 0
    monkeypatch.chdir(tmp_path / "desk")
    assert run_command(["run", "--only", "data"]) == 0
    capsys.readouterr()
    return tmp_path / "desk"


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run_command(list(words)) == 0
    return capsys.readouterr().out


def test_dropped_rows_are_listed_with_place_words_and_twin(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = told(capsys, "show", "data", "--dropped")
    assert "11 of 121 rows left out" in listed
    lines = {line.strip().partition("  ")[0]: line for line in listed.splitlines()}
    numbers = _lines_and_rows(folder.parent / "tickets.csv")
    assert "4 × empty answer" in listed
    assert "wants to know of the printer" in lines[_place(*numbers[20])]
    assert "jo@example.com" not in listed
    assert f"repeats {_place(*numbers[39])}" in lines[_place(*numbers[40])]
    assert "the row has 3 fields, the header has 2" in lines[_place(*numbers[120])]
    assert all(row != line for line, row in (numbers[20], numbers[40]))


def _place(line: int, row: int) -> str:
    return f"../tickets.csv:{line} (row {row})"


def _lines_and_rows(path: Path) -> list[tuple[int, int]]:
    """Of each row behind the header, the line on which it begins and the number that a spreadsheet shows."""
    found, line = [], 1
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        for number, _ in enumerate(reader, 1):
            found.append((line, number))
            line = reader.line_num + 1
    return found[1:]


def test_dropped_rows_are_found_however_the_data_set_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "data").mkdir()  # a folder of the step's name is no recipe
    names = ([], ["data"], ["recipe.yaml"], ["recipe.yaml:data"], [":data"])
    found = {told(capsys, "show", *name, "--dropped", "--json") for name in names}
    assert len(found) == 1
    facts: dict[str, Any] = json.loads(found.pop())
    assert facts["dropped"] == {"broken row": 1, "empty answer": 4, "exact duplicate": 1, "near duplicate": 5}
    assert {row["reason"].partition(":")[0] for row in facts["rows"]} == set(facts["dropped"])
    assert Path(told(capsys, "show", "data", "--dropped", "--path").strip()).is_dir()


def test_what_is_no_data_set_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "--only", "validate"]) == 0
    assert run_command(["show", "validate", "--dropped"]) == 2
    assert "expected a data set, which has dropped rows, got findings" in capsys.readouterr().err


def test_new_names_the_step_and_its_rows_go_to_annotators(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = folder / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8")
    assert "4 of 120 rows have no label" in text
    recipe.write_text(text.replace("  # unlabeled:", "  unlabeled:"), encoding="utf-8")
    assert run_command(["run", "--only", "unlabeled"]) == 0
    for form, labels in EXPORTS.items():
        assert run_command(["export", "recipe.yaml:unlabeled", "--to", form, "--format", form]) == 0
        written = "".join(path.read_text(encoding="utf-8") for path in (folder / form).glob("train.json*"))
        assert written.count("wants to know of the") == 4
        assert "jo@example.com" not in written
        assert all(label in (folder / form / labels).read_text() for label in ("account", "billing", "delivery"))
    capsys.readouterr()
    facts = json.loads(told(capsys, "show", "unlabeled", "--dropped", "--json"))
    assert facts["dropped"]["has an answer"] == 116


def test_a_data_set_without_such_rows_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    rows = tickets(40)
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = (
        "luthier: 1\nname: desk\nsteps:\n"
        "  data: {kind: prepare, source: {kind: jsonl, path: t.jsonl, prompt: message, answer: category}}\n"
        "  unlabeled: {kind: unlabeled, data: data}\n"
    )
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run_command(["run"]) == 2
    assert "no row of the data set was left out for an empty answer" in capsys.readouterr().err
