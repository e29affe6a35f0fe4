"""`new` tells what there is too little of: rows, rows of some classes, labels; and names rows as a spreadsheet does."""

from __future__ import annotations

import csv
from pathlib import Path

from luthier.commands.recipe_text import render_recipe
from luthier.data.suggest.propose import propose_recipe
from tiny_models import tickets


def _write(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["message", "category"], *rows])
    return path


def _rows(count: int) -> list[list[str]]:
    return [[f"{row['message']} {number}", row["category"]] for number, row in enumerate(tickets(count))]


def test_four_rows_are_too_few(tmp_path: Path) -> None:
    found = propose_recipe(
        _write(tmp_path / "t.csv", [["Where is it?", "a"], ["What now?", "b"], ["Oh!", "a"], ["No?", "b"]])
    )
    assert found.reasons["rows"].startswith(
        "4 rows: too few to train on; at least 10 are needed and 50 recommended; a run stops"
    )
    assert "# 4 rows: too few to train on" in render_recipe(found, "t")


def test_small_classes_are_named_with_what_to_do(tmp_path: Path) -> None:
    rows = [
        *_rows(90),
        *(
            [f"a question on {what} {n}", what]
            for what, many in (("zinc", 3), ("iron", 2), ("lead", 1))
            for n in range(many)
        ),
    ]
    found = propose_recipe(_write(tmp_path / "t.csv", rows))
    assert found.reasons["classes"].startswith(
        "3 of 6 classes have fewer than 5 rows: 'lead' (1), 'iron' (2), 'zinc' (3). Merge"
    )
    assert "3 of 6 classes have fewer than 5 rows" in render_recipe(found, "t")
    assert "rows" not in found.reasons


def test_enough_of_everything_is_not_spoken_of(tmp_path: Path) -> None:
    found = propose_recipe(_write(tmp_path / "t.csv", _rows(90)))
    assert found.reasons.keys().isdisjoint({"rows", "classes", "unlabeled"})
    assert "unlabeled" not in render_recipe(found, "t")


def test_rows_without_a_label_have_a_way_to_annotators(tmp_path: Path) -> None:
    found = propose_recipe(_write(tmp_path / "t.csv", [*_rows(90), ["Who labels this?", ""], ["And that?", ""]]))
    assert found.reasons["unlabeled"].startswith("2 of 92 rows have no label")
    assert "luthier export RECIPE:unlabeled" in found.reasons["unlabeled"]
    assert "  # unlabeled: {kind: unlabeled, data: data}\n" in render_recipe(found, "t")


def test_a_broken_row_and_a_twin_are_named_by_line_and_row(tmp_path: Path) -> None:
    rows = [[text.replace(" ", "\n", 1), label] for text, label in _rows(60)]
    found = propose_recipe(_write(tmp_path / "t.csv", [*rows, rows[9], ["one", "two", "three"]]))
    assert "line 124 (row 63)" in found.reasons["source.on_error"]
    (change,) = [change for change in found.examples["exact_dedup"] if change.after.startswith("dropped")]
    assert change.after == "dropped: exact duplicate of line 20 (row 11)"
