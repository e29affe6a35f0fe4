"""Tables with titles above the header, as Excel writes them: what is proposed reads the same rows when it is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.commands.recipe_text import render_recipe
from luthier.core.errors import DataError
from luthier.data.row import SourceRecord
from luthier.data.source import Source
from luthier.data.suggest.propose import propose_recipe
from tests.data.source_files import write_xlsx

Make = Callable[..., Any]
HEADER = ["Nr", "Frage", "Kategorie"]
ROWS = [[str(n), f"Wo bleibt mein Paket mit der Nummer {n * 37}?", ("Versand", "Storno")[n % 2]] for n in range(60)]


def _csv(path: Path, above: list[str], header: list[str] = HEADER, rows: list[list[str]] = ROWS) -> Path:
    """A file as a German Excel saves it: semicolons, Windows-1252, CRLF."""
    lines = [*above, ";".join(header), *(";".join(row) for row in rows)]
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode("cp1252"))
    return path


def _records(path: Path, settings: dict[str, Any]) -> list[SourceRecord]:
    found = Source.parse({**settings, "path": path.name}).read(path.parent, lambda text: None)
    return [one for one in found if isinstance(one, SourceRecord)]


@pytest.mark.parametrize(
    ("above", "told"),
    [
        (["Auswertung 2025;;"], "the first line is a title above the header, not data: 'Auswertung 2025'"),
        ([";;"], "the first line is empty"),
        ([";;", "Auswertung 2025;;", ";;"], "the first 2 lines are titles above the header"),
        (["Auswertung 2025;;", "Stand: 01.02.2025;;", "Zeitraum: 2024;;", ""], "the first 3 lines are titles"),
        (["sep=;", "Auswertung 2025;;"], "the first line is a title above the header"),
    ],
)
def test_title_rows_of_a_csv_are_passed_over_and_told(tmp_path: Path, make: Make, above: list[str], told: str) -> None:
    proposal = propose_recipe(_csv(tmp_path / "two.csv", above))
    source = proposal.source
    assert (source["prompt"], source["answer"]) == ("Frage", "Kategorie")
    assert source["header"] == len(above) + 1
    assert proposal.reasons["source.header"].startswith(told)
    assert proposal.reasons["task"].startswith("2 different short answers")
    read = _records(tmp_path / "two.csv", source)
    assert [one.line for one in read] == list(range(len(above) + 2, len(above) + 62)), "lines are those of the file"
    assert [list(one.values.values()) for one in read] == ROWS
    assert read == _records(tmp_path / "two.csv", {"kind": "csv"}), "a recipe without the setting reads the same rows"
    made = make(**{**yaml.safe_load(render_recipe(proposal, "mine"))["steps"]["data"], "ops": []})
    assert sorted(made.summary.labels) == ["Storno", "Versand"]
    assert made.summary.rows_in == 60


def test_a_table_of_two_columns_with_a_title(tmp_path: Path) -> None:
    """It became `prompt: Export 2025`, `answer: column_2`, and the header a class."""
    proposal = propose_recipe(_csv(tmp_path / "two.csv", ["Export 2025;"], HEADER[1:], [row[1:] for row in ROWS]))
    assert proposal.source["prompt"] == "Frage"
    assert proposal.source["answer"] == "Kategorie"
    assert proposal.source["system"].endswith("Answer with one of: Storno, Versand.")


@pytest.mark.parametrize("titles", [[["Auswertung 2025"]], [["Auswertung 2025", None, "Stand 1.2."], [], ["Desk"]]])
def test_title_rows_of_a_sheet_are_passed_over_and_told(tmp_path: Path, make: Make, titles: list[list[object]]) -> None:
    header = [*HEADER, "Kunde", "Kanal", "Status"]
    rows = [[*row, f"k{place % 30}", "Mail", "zu"] for place, row in enumerate(ROWS)]
    write_xlsx(tmp_path / "t.xlsx", [*titles, header, *rows])
    proposal = propose_recipe(tmp_path / "t.xlsx")
    line = len(titles) + 1
    assert proposal.source["header"] == line
    assert "title" in proposal.reasons["source.header"]
    assert "'Auswertung 2025'" in proposal.reasons["source.header"]
    read = _records(tmp_path / "t.xlsx", proposal.source)
    assert [one.line for one in read] == list(range(line + 1, line + 61))
    assert read == _records(tmp_path / "t.xlsx", {"kind": "excel"})
    made = make(**{**yaml.safe_load(render_recipe(proposal, "mine"))["steps"]["data"], "ops": []})
    assert made.summary.rows_in == 60


def test_no_header_is_written_where_the_first_row_is_one(tmp_path: Path) -> None:
    assert "header" not in propose_recipe(_csv(tmp_path / "t.csv", [])).source
    assert (
        "header" not in propose_recipe(_csv(tmp_path / "half.csv", [], ["Frage", ""], [row[1:] for row in ROWS])).source
    )


@pytest.mark.parametrize(
    ("kind", "line", "why"),
    [
        ("csv", 99, "has 61 lines, and the header is to stand in line 99"),
        ("excel", 99, "row 99 is empty"),
        ("csv", True, "header"),
        ("csv", 0, "header"),
    ],
)
def test_a_line_without_a_header_is_refused(tmp_path: Path, kind: str, line: object, why: str) -> None:
    write_xlsx(tmp_path / "t.excel", [HEADER, *ROWS])
    _csv(tmp_path / "t.csv", [])
    with pytest.raises((DataError, ValueError), match=why):
        _records(tmp_path / f"t.{kind}", {"kind": kind, "header": line})


def test_no_header_is_written_where_figures_stand_in_its_place(tmp_path: Path) -> None:
    rows = [
        [str(2024 + n), f"Wo bleibt mein Paket mit der Nummer {n * 37}?", ("Versand", "Storno")[n % 2]]
        for n in range(60)
    ]
    proposal = propose_recipe(_csv(tmp_path / "t.csv", ["Auswertung;;"], ["2023", "Frage", "Kategorie"], rows))
    assert "header" not in proposal.source
    assert [one.line for one in _records(tmp_path / "t.csv", proposal.source)] == list(range(2, 63))
