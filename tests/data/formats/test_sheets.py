"""Spreadsheets: values as they were saved, no formula evaluated, no bomb opened."""

from __future__ import annotations

import datetime
import zipfile
from pathlib import Path

import openpyxl
import pytest

from luthier.core.errors import DataError
from luthier.data.formats import sheets
from luthier.data.formats.files import SourceFile
from luthier.data.formats.merged_cells import find_merged_cells
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.sources.excel import Excel
from tests.data.source_files import write_xlsx


def _read(path: Path, **settings: object) -> list[SourceRecord | BrokenRow]:
    return list(sheets.read_sheet_rows(SourceFile(path, path.name), **settings))  # type: ignore[arg-type]


def test_values_become_plain_json(tmp_path: Path) -> None:
    row = ["a", 3, 2.5, True, None, datetime.datetime(2025, 2, 3, 10, 59), datetime.date(2025, 2, 3)]
    write_xlsx(tmp_path / "t.xlsx", [["text", "n", "x", "yes", "none", "at", "on"], row, [], ["b"]])
    found = _read(tmp_path / "t.xlsx")
    assert found[0].values == {  # type: ignore[union-attr]
        "text": "a",
        "n": 3,
        "x": 2.5,
        "yes": True,
        "none": "",
        "at": "2025-02-03T10:59:00",
        "on": "2025-02-03",
    }
    assert [one.line for one in found] == [2, 4]


def test_a_column_of_moments_has_one_form_also_at_midnight(tmp_path: Path) -> None:
    moments = [datetime.datetime(2024, 1, 5), datetime.datetime(2024, 1, 5, 10, 30)]
    rows = [
        ["text", "at", "on"],
        *([f"row {n}", moment, datetime.date(2024, 1, 5)] for n, moment in enumerate(moments)),
    ]
    write_xlsx(tmp_path / "t.xlsx", rows)
    found = [one.values for one in _read(tmp_path / "t.xlsx") if isinstance(one, SourceRecord)]
    assert [values["at"] for values in found] == ["2024-01-05T00:00:00", "2024-01-05T10:30:00"]
    assert {values["on"] for values in found} == {"2024-01-05"}


def test_formulas_give_what_was_saved_and_are_never_evaluated(tmp_path: Path) -> None:
    target = tmp_path / "pwned"
    formulas = ["=1+1", f'=HYPERLINK("file://{target}","x")', '=cmd|" /C calc"!A1', '=WEBSERVICE("http://127.0.0.1:9")']
    write_xlsx(tmp_path / "t.xlsx", [["text", "value"], *([f"row {n}", one] for n, one in enumerate(formulas))])
    found = _read(tmp_path / "t.xlsx")
    assert [one.values["value"] for one in found if isinstance(one, SourceRecord)] == ["", "", "", ""]
    assert not target.exists()


def test_a_saved_value_of_a_formula_is_read(tmp_path: Path) -> None:
    write_xlsx(tmp_path / "t.xlsx", [["text", "value"], ["a", "=1+1"]])
    with zipfile.ZipFile(tmp_path / "t.xlsx") as before, zipfile.ZipFile(tmp_path / "u.xlsx", "w") as after:
        for name in before.namelist():
            after.writestr(
                name,
                before.read(name)
                .replace(b"<v></v>", b"<v>2</v>")
                .replace(b"<v/>", b"<v>2</v>")
                .replace(b"<v />", b"<v>2</v>"),
            )
    assert _read(tmp_path / "u.xlsx")[0].values == {"text": "a", "value": 2}  # type: ignore[union-attr]


def test_the_sheet_is_said_and_can_be_set(tmp_path: Path) -> None:
    write_xlsx(tmp_path / "t.xlsx", [["text", "n"], ["first", 1]], more=[["text", "n"], ["second", 2]])
    said: list[str] = []
    assert _read(tmp_path / "t.xlsx", say=said.append)[0].values["text"] == "first"  # type: ignore[union-attr]
    assert "'rows' is read; there are 2: rows, more" in said[0]
    for sheet in ("more", 2):
        assert _read(tmp_path / "t.xlsx", sheet=sheet)[0].values["text"] == "second"  # type: ignore[union-attr]
    with pytest.raises(DataError, match="no sheet 'mor'") as caught:
        _read(tmp_path / "t.xlsx", sheet="mor")
    assert "'more'" in caught.value.hint


def test_a_table_that_does_not_start_at_the_top(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for place, value in {"B4": "text", "C4": "label", "B5": "hello", "C5": "x", "B7": "bye", "C7": "y"}.items():
        book.active[place] = value
    book.save(tmp_path / "t.xlsx")
    found = _read(tmp_path / "t.xlsx")
    assert [(one.line, one.values) for one in found if isinstance(one, SourceRecord)] == [
        (5, {"text": "hello", "label": "x"}),
        (7, {"text": "bye", "label": "y"}),
    ]


def test_titles_above_the_header_are_said_and_left_out(tmp_path: Path) -> None:
    rows = [["Support tickets 2026"], ["made by the desk"], ["text", "label"], ["hello", "x"], ["alone", None]]
    write_xlsx(tmp_path / "t.xlsx", rows)
    said: list[str] = []
    found = _read(tmp_path / "t.xlsx", say=said.append)
    assert [(one.line, one.values) for one in found if isinstance(one, SourceRecord)] == [
        (4, {"text": "hello", "label": "x"}),
        (5, {"text": "alone", "label": ""}),
    ]
    assert "the first 2 rows are titles above the header, not data: 'Support tickets 2026'" in said[0]
    assert len(_read(tmp_path / "t.xlsx", header=("a", "b"))) == 5, "who names the columns means every row"
    write_xlsx(tmp_path / "one.xlsx", [["text"], ["hello"], ["bye"], ["late", "a note"], ["more"], ["again"]])
    lines = [one.line for one in _read(tmp_path / "one.xlsx")]
    assert lines == [2, 3, 4, 5, 6], "no table stands below a title there"


GROUPED = [
    ["Tickets of May", None, None, None],
    ["Ticket", None, "Customer", None],
    ["ID", "Text", "Name", "Class"],
    [1, "hello", "Jo", "x"],
    [2, "bye", "Al", "y"],
    [3, "late", "Bo", None],
]


def _merge(path: Path, rows: list[list[object]], *cells: str) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for one in cells:
        book.active.merge_cells(one)
    book.save(path)
    return path


def test_a_row_that_groups_columns_is_no_header(tmp_path: Path) -> None:
    said: list[str] = []
    found = _read(_merge(tmp_path / "t.xlsx", GROUPED, "A1:D1", "A2:B2", "C2:D2", "D5:D6"), say=said.append)
    assert [(one.line, one.values) for one in found if isinstance(one, SourceRecord)] == [
        (4, {"ID": 1, "Text": "hello", "Name": "Jo", "Class": "x"}),
        (5, {"ID": 2, "Text": "bye", "Name": "Al", "Class": "y"}),
        (6, {"ID": 3, "Text": "late", "Name": "Bo", "Class": "y"}),
    ]
    assert said == [
        "t.xlsx: cells are merged over several rows; each of these rows has what stands in them",
        "t.xlsx: the first 2 rows are titles above the header, not data: 'Tickets of May'",
    ]


def test_columns_of_two_groups_may_have_one_name(tmp_path: Path) -> None:
    rows = [["No", "Ticket", None, "Customer", None], [None, "Name", "Text", "Name", "Class"], [1, "a", "b", "c", "d"]]
    (only,) = _read(_merge(tmp_path / "t.xlsx", rows, "A1:A2", "B1:C1", "D1:E1"))
    assert isinstance(only, SourceRecord)
    assert only.values == {"No": 1, "Ticket Name": "a", "Text": "b", "Customer Name": "c", "Class": "d"}


def test_merged_cells_that_reach_beyond_the_table_or_over_each_other_are_cut() -> None:
    table = [["a", "b"], ["c", "d"]]
    assert find_merged_cells(
        [((0, 0), (9, 9)), ((1, 0), (5, 0)), ((1, 1), (4, 1)), ((7, 7), (8, 8))], table, (0, 0)
    ) == [
        (0, 0, 1, 1),
        (1, 1, 1, 1),
    ]
    assert find_merged_cells([((0, 0), (0, 1))], table, (1, 0)) == [], "above the first row with anything in it"
    assert find_merged_cells([((0, 0), (0, 1))], [], (0, 0)) == find_merged_cells(None, table, (0, 0)) == []


def test_a_header_with_a_merged_cell_is_one(tmp_path: Path) -> None:
    rows = [["ID", "Text", None, "Class"], [1, "hello", None, "x"], [2, "bye", "noted", "y"], [3, "so", None, "x"]]
    found = _read(_merge(tmp_path / "t.xlsx", rows, "B1:C1", "B2:C2"))
    assert [one.values["ID"] for one in found if isinstance(one, SourceRecord)] == [1, 2, 3]


def test_the_fullest_sheet_is_told_where_it_is_not_the_first(tmp_path: Path) -> None:
    table = [["text", "n"], ["first", 1], ["second", 2]]
    write_xlsx(tmp_path / "t.xlsx", [["read me"]], tickets=table, other=[["x"]])
    file = next(iter(Excel(path="t.xlsx").files(tmp_path)))
    assert sheets.find_largest_sheet(file) == ("tickets", ["rows", "tickets", "other"])
    assert Excel(path="t.xlsx").suggest_settings(tmp_path).settings == {"sheet": "tickets"}
    assert Excel(path="t.xlsx", sheet=1).suggest_settings(tmp_path).settings == {}
    write_xlsx(tmp_path / "u.xlsx", table, notes=[["read me"]])
    assert Excel(path="u.xlsx").suggest_settings(tmp_path).settings == {}


def test_without_a_header(tmp_path: Path) -> None:
    write_xlsx(tmp_path / "t.xlsx", [[1, "a"], [2, "b"]])
    assert _read(tmp_path / "t.xlsx")[0].values == {"column_1": 1, "column_2": "a"}  # type: ignore[union-attr]
    assert _read(tmp_path / "t.xlsx", header=("n", "text"))[0].values == {"n": 1, "text": "a"}  # type: ignore[union-attr]


def test_columns_of_one_name_are_numbered_and_said(tmp_path: Path) -> None:
    write_xlsx(tmp_path / "t.xlsx", [["Summary", "Labels", "Labels"], ["a", "late", "lost"], ["b", "x", ""]])
    said: list[str] = []
    file = SourceFile(tmp_path / "t.xlsx", "t.xlsx")
    rows = [one.values for one in sheets.read_sheet_rows(file, say=said.append) if isinstance(one, SourceRecord)]
    assert rows[0] == {"Summary": "a", "Labels": "late", "Labels 2": "lost"}
    assert said == ["t.xlsx: the header names 'Labels' 2 times; the later ones are read as 'Labels 2'"]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [([], "sheet is empty"), ([["a", "b"]], "a header and no rows")],
)
def test_sheets_without_use(tmp_path: Path, rows: list[list[object]], problem: str) -> None:
    write_xlsx(tmp_path / "t.xlsx", rows)
    with pytest.raises(DataError, match=problem) as caught:
        _read(tmp_path / "t.xlsx", header="yes")
    assert caught.value.hint


def test_a_bomb_in_a_workbook_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
        with archive.open("xl/worksheets/sheet1.xml", "w") as part:
            for _ in range(80):
                part.write(bytes(1 << 20))
    with pytest.raises(DataError, match="refused as a zip bomb"):
        _read(tmp_path / "t.xlsx")


def test_no_spreadsheet_at_all(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    with pytest.raises(DataError, match="not a spreadsheet"):
        _read(tmp_path / "t.xlsx")
