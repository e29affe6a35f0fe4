"""Reading files: lines are right, dialects are found, and what is broken is said in one sentence with its place."""

from __future__ import annotations

import csv
import datetime
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.data.columns.recognize import build_source_for_file
from luthier.data.formats import delimited, lines, tables
from luthier.data.formats.dialect import DELIMITERS
from luthier.data.formats.files import SourceFile
from luthier.data.row import BrokenRow, SourceRecord

CELLS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\ufeff"), max_size=12)
TABLES = st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=12)


def _read(path: Path, name: str) -> Any:
    file = SourceFile(path, name)
    return build_source_for_file(file).read_file(file, lambda text: None)


def _records(found: Any) -> list[SourceRecord]:
    listed = list(found)
    assert all(isinstance(one, SourceRecord) for one in listed), listed
    return listed


@settings(max_examples=120, deadline=None)
@given(table=TABLES, delimiter=st.sampled_from(DELIMITERS))
def test_csv_reads_what_csv_wrote(tmp_path_factory: pytest.TempPathFactory, table: list[Any], delimiter: str) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("a", "b", "c"), *table])
    path.write_bytes(text.getvalue().encode())
    found = _records(
        delimited.read_delimited_rows(SourceFile(path, "t.csv"), delimiter=delimiter, quote='"', header="yes")
    )
    assert [tuple(record.values.values()) for record in found] == table
    starts = [1 + text.getvalue().encode()[: _offset(table, delimiter, n)].count(b"\n") for n in range(len(table))]
    assert [record.line for record in found] == starts


def _offset(table: list[Any], delimiter: str, rows: int) -> int:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("a", "b", "c"), *table[:rows]])
    return len(text.getvalue().encode())


@pytest.mark.parametrize(("delimiter", "name"), [(";", "semicolon"), ("\t", "tab"), ("|", "bar")])
def test_the_delimiter_is_found_and_said(tmp_path: Path, delimiter: str, name: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "".join(delimiter.join(row) + "\n" for row in [("text", "label"), ("one, two", "x"), ("three", "y")])
    )
    said: list[str] = []
    found = _records(delimited.read_delimited_rows(SourceFile(path, "t.csv"), say=said.append))
    assert [record.values for record in found] == [{"text": "one, two", "label": "x"}, {"text": "three", "label": "y"}]
    assert name in said[0]


@pytest.mark.parametrize(("encoding", "asked"), [("utf-8-sig", "auto"), ("cp1252", "cp1252"), ("utf-16", "utf-16")])
def test_encodings(tmp_path: Path, encoding: str, asked: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("text,label\nGrüße,ja\nñandú,sí\n".encode(encoding))
    found = _records(delimited.read_delimited_rows(SourceFile(path, "t.csv"), encoding=asked))
    assert [record.values["text"] for record in found] == ["Grüße", "ñandú"]
    assert [record.line for record in found] == [2, 3]


def test_a_file_without_quotes_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('text\tlabel\n5" screen\tsize\n')
    assert _records(delimited.read_delimited_rows(SourceFile(path, "t.csv"), quote=""))[0].values == {
        "text": '5" screen',
        "label": "size",
    }


def test_columns_without_a_name_get_one(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label,\na,b,\n")
    assert list(_records(delimited.read_delimited_rows(SourceFile(path, "t.csv")))[0].values) == [
        "text",
        "label",
        "column_3",
    ]


HEAD = b"text,label\n"
GOOD = b"fine,yes\n"
BROKEN_CSV = {
    "ragged": (HEAD + GOOD * 15 + b"one,two,three\n" + GOOD, 17, "3 fields, the header has 2"),
    "short": (HEAD + GOOD + b"one\n" + GOOD, 3, "1 field, the header has 2"),
    "nul": (HEAD + GOOD + b"a\0b,yes\n" + GOOD, 3, "NUL byte"),
    "nul inside a quoted field": (HEAD + GOOD + b'"line\na\0b",yes\n' + GOOD, 3, "NUL byte"),
    "not utf-8": (HEAD + "schön,yes\n".encode() + b"caf\xe9,yes\n" + GOOD, 3, "0xe9 at position 4"),
    "bad quoting": (HEAD + GOOD + b'"a"b,yes\n' + GOOD, 3, "quoting is broken"),
    "open quote": (HEAD + GOOD + b'"never closed,yes\n' + GOOD, 3, "never closed"),
}


@pytest.mark.parametrize("name", sorted(BROKEN_CSV))
def test_a_broken_csv_row_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    content, line, problem = BROKEN_CSV[name]
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    found = list(delimited.read_delimited_rows(SourceFile(path, "t.csv")))
    broken = [one for one in found if isinstance(one, BrokenRow)]
    assert [(one.line, problem in one.problem) for one in broken] == [(line, True)]
    error = broken[0].error()
    assert error.where.file == "t.csv"
    assert error.hint
    assert isinstance(found[-1], SourceRecord)


BROKEN_JSON = {
    "syntax": (b'{"a": 1}\n{"a": \n', 2, "column"),
    "array": (b'{"a": 1}\n[1, 2]\n', 2, "an array"),
    "null": (b'{"a": 1}\nnull\n', 2, "null"),
    "nan": (b'{"a": 1}\n{"a": NaN}\n', 2, "NaN"),
    "surrogate": (b'{"a": 1}\n{"a": "\\ud83d"}\n', 2, "surrogate"),
    "nul": (b'{"a": 1}\n{"a": "\0"}\n', 2, "NUL"),
    "deep": (b'{"a": 1}\n' + b"[" * 100_000 + b"\n", 2, "nested too deeply"),
    "latin-1": ('{"a": "ö"}\n\n'.encode() + b'{"a": "caf\xe9"}\n', 3, "0xe9"),
}


@pytest.mark.parametrize("name", sorted(BROKEN_JSON))
def test_a_broken_json_line_is_named(tmp_path: Path, name: str) -> None:
    content, line, problem = BROKEN_JSON[name]
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    found = list(lines.read_jsonl_rows(SourceFile(path, "t.jsonl")))
    broken = [one for one in found if isinstance(one, BrokenRow)]
    assert [(one.line, problem in one.problem) for one in broken] == [(line, True)]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.dictionaries(st.text("abc", min_size=1), CELLS | st.integers() | st.none()), min_size=1, max_size=9
    )
)
def test_jsonl_reads_what_json_wrote(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "t.jsonl"
    path.write_bytes("".join(json.dumps(row, ensure_ascii=len(rows) % 2 == 0) + "\n" for row in rows).encode())
    assert [record.values for record in _records(lines.read_jsonl_rows(SourceFile(path, "t.jsonl")))] == rows


READERS = {".csv": delimited.read_delimited_rows, ".jsonl": lines.read_jsonl_rows, ".parquet": tables.read_parquet_rows}
WHOLE_FILES = {
    "missing": (None, "t.csv", "no such file"),
    "empty": (b"", "t.csv", "is empty"),
    "only a mark": (b"\xef\xbb\xbf\n", "t.csv", "is empty"),
    "header only": (b"text,label\n", "t.csv", "a header and no rows"),
    "binary": (bytes(range(256)) * 4, "t.csv", "binary"),
    "zip": (b"PK\x03\x04" + bytes(100), "t.csv", "not a whole zip"),
    "parquet as csv": (b"PAR1" + bytes(100), "t.csv", "binary"),
    "json array": (b' [{"a": 1}]', "t.jsonl", "one JSON array"),
    "not parquet": (b"nonsense, but long enough to look", "t.parquet", "not a Parquet file"),
    "empty parquet": (b"", "t.parquet", "not a Parquet file"),
}


@pytest.mark.parametrize("name", sorted(WHOLE_FILES))
def test_a_file_that_cannot_be_used_is_one_clear_error(tmp_path: Path, name: str) -> None:
    content, file, problem = WHOLE_FILES[name]
    path = tmp_path / file
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        list(READERS[path.suffix](SourceFile(path, file)))
    assert caught.value.where.file == file
    assert caught.value.hint


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        list(_read(tmp_path / "t.csv", "t.csv"))


def test_a_near_name_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "tickets.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError) as caught:
        list(_read(tmp_path / "ticket.csv", "ticket.csv"))
    assert "tickets.csv" in caught.value.hint


def test_unknown_encoding(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="'utf-9' is unknown"):
        list(delimited.read_delimited_rows(SourceFile(tmp_path / "t.csv", "t.csv"), encoding="utf-9"))


def test_parquet_values_become_plain_json(tmp_path: Path) -> None:
    row = {
        "text": "a",
        "when": datetime.datetime(2025, 2, 3, 10, 59),
        "price": Decimal("1.50"),
        "bytes": b"\x00\xff",
        "none": None,
        "nan": float("nan"),
        "list": [{"role": "user", "content": "hi"}],
    }
    pl.DataFrame([row]).write_parquet(tmp_path / "t.parquet")
    values = _records(tables.read_parquet_rows(SourceFile(tmp_path / "t.parquet", "t.parquet")))[0].values
    assert values["when"] == "2025-02-03T10:59:00"
    assert values["bytes"] == "AP8="
    assert values["nan"] is None
    assert values["list"] == [{"role": "user", "content": "hi"}]
    json.dumps(values, allow_nan=False)


def test_a_text_file_is_one_record(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one\ntwo\n")
    assert _records(_read(tmp_path / "t.txt", "t.txt")) == [
        SourceRecord({"text": "one\ntwo", "document": "t.txt", "piece": 1}, "t.txt", 1)
    ]
