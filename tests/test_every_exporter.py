"""Every exporter keeps an exporter's promises: whole, repeatable, documented, and no row loses its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from documented import undescribed
from luthier.artifacts.dataset import read_examples
from luthier.core.component import components_by_kind
from luthier.core.errors import DataError
from luthier.data.export import export_dataset, export_formats
from luthier.data.exporter import Exporter
from tests.data.conftest import _own_key, make, write  # noqa: F401  # fixtures

KINDS = sorted(components_by_kind(Exporter))


@pytest.fixture
def data(make: Callable[..., Any], write: Callable[..., str]) -> Any:  # noqa: F811
    rows = [
        {"text": f"=HYPERLINK({n}) Grüße, «{n}»\nzweite Zeile", "label": "ab"[n % 2], "n": n, "nested": {"a": [n]}}
        for n in range(24)
    ]
    source = {"kind": "jsonl", "path": write("t.jsonl", rows), "prompt": "text", "answer": "label", "system": "Pick."}
    return make(source=source, split={"test": 0.25}).artifact


def _text(folder: Path) -> str:
    """Everything that was written, as text."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".parquet":
            import polars as pl

            found += [json.dumps(row, default=str) for row in pl.read_parquet(path).iter_rows(named=True)]
        elif path.suffix == ".arrow":
            import pyarrow as pa

            found += [json.dumps(row) for row in pa.ipc.open_stream(path).read_all().to_pylist()]
        elif path.is_file():
            found.append(path.read_text(encoding="utf-8"))
    return "\n".join(found)


def test_jsonl_is_meant_when_none_is_named() -> None:
    assert export_formats()[0] == "jsonl"
    assert sorted(export_formats()) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_no_row_loses_its_id_or_its_meta(kind: str, data: Any, tmp_path: Path) -> None:
    export_dataset(data, tmp_path / "out", kind)
    text = _text(tmp_path / "out")
    for split in ("train", "test"):
        for example in read_examples(data, split):
            assert example.id in text
            assert example.origin.file in text
    assert "nested" in text


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_data_make_the_same_bytes_and_nothing_is_left_behind(kind: str, data: Any, tmp_path: Path) -> None:
    first = export_dataset(data, tmp_path / "one", kind)
    export_dataset(data, tmp_path / "two", kind)
    assert sorted(first) == sorted(path for path in (tmp_path / "one").rglob("*") if path.is_file())
    for path in first:
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    export_dataset(data, tmp_path / "one", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_somebody_elses_stays(kind: str, data: Any, tmp_path: Path) -> None:
    target = export_dataset(data, tmp_path / "out", kind)[0]
    target.write_text("mine\n")
    with pytest.raises(DataError, match="differs from what would be written"):
        export_dataset(data, tmp_path / "out", kind)
    assert target.read_text() == "mine\n"


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_documented_and_its_settings_come_back(kind: str) -> None:
    member = components_by_kind(Exporter)[kind]
    exporter = member.model_validate({})
    assert member.summary()
    assert undescribed(member) == []
    assert Exporter.parse(exporter.settings()) == exporter
