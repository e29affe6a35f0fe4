"""JSON files element by element: every row with its line, a broken one left out, memory bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.data.formats import json_rows
from luthier.data.formats.files import SourceFile
from luthier.data.row import BrokenRow, SourceRecord

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(blacklist_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab"\\{', max_size=3), inner, max_size=3),
    max_leaves=6,
)


def _read(path: Path, content: str | bytes, **settings: Any) -> tuple[list[SourceRecord], list[BrokenRow]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = list(json_rows.read_json_rows(SourceFile(path, path.name), **settings))
    return [one for one in found if isinstance(one, SourceRecord)], [one for one in found if isinstance(one, BrokenRow)]


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), min_size=1, max_size=8),
    indent=st.none() | st.just(1),
)
def test_an_array_is_read_as_json_reads_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], indent: int | None
) -> None:
    path = tmp_path_factory.mktemp("json") / "t.json"
    good, broken = _read(path, json.dumps(rows, indent=indent))
    assert [record.values for record in good] == json.loads(json.dumps(rows))
    assert broken == []


def test_rows_longer_than_what_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "_CHUNK_BYTES", 7)
    rows = [{"text": f'{n} "{{[' * n, "n": n * 1000} for n in range(40)]
    good, _ = _read(tmp_path / "t.json", json.dumps(rows, indent=2))
    assert [record.values for record in good] == rows


def test_an_object_with_one_array(tmp_path: Path) -> None:
    content = {"count": 2, "tags": ["a"], "data": [{"a": 1}, {"a": 2}], "next": None}
    good, _ = _read(tmp_path / "t.json", json.dumps(content))
    assert [record.values for record in good] == [{"a": 1}, {"a": 2}]


def test_two_arrays_ask_which(tmp_path: Path) -> None:
    content = json.dumps({"train": [{"a": 1}], "test": [{"a": 2}]})
    with pytest.raises(DataError, match="two arrays") as caught:
        _read(tmp_path / "t.json", content)
    assert "rows: test" in caught.value.hint
    good, _ = _read(tmp_path / "t.json", content, rows="test")
    assert [record.values for record in good] == [{"a": 2}]
    with pytest.raises(DataError, match="no array 'valid'"):
        _read(tmp_path / "t.json", content, rows="valid")


def test_one_conversation_is_one_row_and_objects_may_follow_each_other(tmp_path: Path) -> None:
    one = {"messages": [{"role": "user", "content": "hi"}]}
    good, _ = _read(tmp_path / "t.json", json.dumps(one, indent=1) + "\n" + json.dumps(one, indent=1))
    assert [record.values for record in good] == [one, one]


def test_a_broken_element_is_left_out_with_its_line_and_reading_goes_on(tmp_path: Path) -> None:
    content = '[\n{"a": 1},\n{"a": tru},\n{"a": NaN},\n{"a": "\\ud800"},\n[1],\n{"a": {"b": "}"}}\n]'
    good, broken = _read(tmp_path / "t.json", content)
    assert [(record.values, record.line) for record in good] == [({"a": 1}, 2), ({"a": {"b": "}"}}, 7)]
    assert [one.line for one in broken] == [3, 4, 5, 6]


@pytest.mark.parametrize("end", ["", '{"a": 2', '{"a": 2} x', '{"a": 2}] x'])
def test_a_file_that_breaks_off_keeps_what_stands_before(tmp_path: Path, end: str) -> None:
    good, broken = _read(tmp_path / "t.json", f'[{{"a": 1}},\n{end}')
    assert good[0].values == {"a": 1}
    assert broken
    assert "cannot be read" in broken[-1].problem


def test_a_wrong_byte_is_named(tmp_path: Path) -> None:
    _, broken = _read(tmp_path / "t.json", '[{"a": "ö"},\n{"a": "ü"},\n'.encode() + b'{"a": "\xe9"}]')
    assert "0xe9" in broken[-1].problem


def test_depth_and_length_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, broken = _read(tmp_path / "t.json", '[{"a": ' + "[" * 100_000 + "]" * 100_000 + "}]")
    assert "nested too deeply" in broken[0].problem
    monkeypatch.setattr(json_rows, "LONGEST_BYTES", 1 << 16)
    for long in ("x" * 300_000, '\\"}]{[' * 30_000, "\\\\" * 200_001, "ä" * 200_000):
        good, broken = _read(tmp_path / "t.json", '[{"a": 1},\n{"a": [{"b": "' + long + '"}]},\n{"a": 2}]')
        assert [(row.values, row.line) for row in good] == [({"a": 1}, 1), ({"a": 2}, 3)]
        assert [row.line for row in broken] == [2]
        assert "longer than" in broken[0].problem
    good, broken = _read(tmp_path / "t.json", '[{"a": 1},\n{"a": "' + "x" * 300_000)
    assert len(good) == 1
    assert "the file ends within an element" in broken[0].problem
