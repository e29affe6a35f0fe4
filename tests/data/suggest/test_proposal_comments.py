"""What a proposal says of rows is what the run will do with them, and where they are."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from luthier.commands.recipe_text import render_recipe
from luthier.data.source import Source
from luthier.data.suggest.propose import propose_recipe
from tests.data.source_files import write_pdf, write_xlsx


def test_rows_with_nothing_to_learn_are_counted_as_such_and_not_as_copies(tmp_path: Path) -> None:
    rows = [{"message": f"question {n} of mine?", "category": "abc"[n % 3]} for n in range(60)]
    rows += [{"message": "", "category": "a"} for _ in range(5)] + [{"message": "what?", "category": ""}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    proposal = propose_recipe(tmp_path / "rows.jsonl")
    assert "none was seen so far" in proposal.reasons["ops.exact_dedup"]
    said = "6 of 66 rows have nothing to train on and will be dropped: 1 × empty answer, 5 × empty prompt"
    assert f"# {said}\n" in render_recipe(proposal, "mine")


def test_a_broken_file_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    write_pdf(tmp_path / "docs" / "good.pdf", ["First page."])
    (tmp_path / "docs" / "locked.pdf").write_bytes(b"%PDF-1.7\nnothing else")
    assert "(line 1 of docs/locked.pdf: is not a PDF" in propose_recipe(tmp_path / "docs").reasons["source.on_error"]


def test_what_a_library_remarks_of_a_broken_file_is_not_on_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cut.pdf").write_bytes(b"%PDF-1.7\nnothing else")
    monkeypatch.setattr(logging.root, "handlers", [])  # as on the command line
    found = list(Source.parse({"kind": "pdf", "path": "cut.pdf", "on_error": "drop"}).read(tmp_path, print))
    assert len(found) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["Ticket No", "Ticket No.", "ticket number", "Case-ID"])
def test_a_column_is_known_to_name_the_row_as_people_write_it(tmp_path: Path, name: str) -> None:
    rows = [[f"T-{n}", f"question {n} of mine?", "ab"[n % 2]] for n in range(40)]
    write_xlsx(tmp_path / "desk.xlsx", [[name, "Message", "Category"], *rows])
    assert propose_recipe(tmp_path / "desk.xlsx").source["id"] == name
