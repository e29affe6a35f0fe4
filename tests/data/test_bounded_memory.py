"""However long rows are: what is held at once is bounded, and the bytes of a data set do not depend on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.artifacts import parquet
from luthier.chat.messages import Message
from luthier.data import row as bounds
from luthier.data.engine import reader
from luthier.data.engine import tables as written
from luthier.data.engine.reader import SourceReader
from luthier.data.engine.tables import TableWriter
from luthier.data.formats import tables
from luthier.data.formats.files import SourceFile
from luthier.data.row import Batch, chunk_by_size, count_characters, count_row_characters, take_first_chunk
from luthier.data.sources.jsonl import Jsonl

Make = Callable[..., Any]


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 9), st.integers(1, 80))
def test_lists_are_whole_in_order_and_as_full_as_they_may_be(sizes: list[int], most: int, characters: int) -> None:
    found = list(chunk_by_size(sizes, most, lambda size: size, characters))
    assert [size for one in found for size in one] == sizes
    for one in found:
        assert len(one) <= most
        assert sum(one[:-1]) < characters, "it was full before its last"
    for one in found[:-1]:
        assert len(one) == most or sum(one) >= characters


def test_an_iterator_goes_on_behind_the_first() -> None:
    rest = iter("abcdef")
    assert take_first_chunk(rest, 2, len) == ["a", "b"]
    assert list(rest) == ["c", "d", "e", "f"]


def test_a_size_counts_text_at_any_depth() -> None:
    assert count_characters({"a": "xyz", "b": ["12", {"c": "4567"}]}) == 9
    assert count_characters(Message(role="user", content="x" * 1000)) >= 1000
    assert count_characters([1, None, 2.5]) < 100


def _long_rows(path: Path, rows: int, characters: int) -> None:
    texts = ({"text": f"{n} " + "word " * (characters // 5), "label": "ab"[n % 2]} for n in range(rows))
    path.write_text("".join(json.dumps(row) + "\n" for row in texts))


def test_long_rows_come_in_short_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _long_rows(tmp_path / "long.jsonl", 30, 5_000)
    small = lambda items, most, size: chunk_by_size(items, most, size, 20_000)  # noqa: E731  # a bound that a test reaches
    monkeypatch.setattr(reader, "chunk_by_size", small)
    source = Jsonl(path="long.jsonl", prompt="text", answer="label")
    fed = list(SourceReader(source, tmp_path, lambda text: None, batch_rows=1024).batches())
    assert len(fed) == 8
    rows = [batch.rows for batch in (one.rows for one in fed) if isinstance(batch, Batch)]
    assert all(sum(map(count_row_characters, one[:-1])) < 20_000 for one in rows)
    assert [row.n for one in rows for row in one] == list(range(30))


def test_the_bytes_of_a_data_set_do_not_depend_on_the_bounds(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _long_rows(tmp_path / "long.jsonl", 40, 3_000)
    settings = {"source": {"kind": "jsonl", "path": "long.jsonl", "prompt": "text", "answer": "label"}}
    settings |= {"ops": ["normalize", "exact_dedup"], "split": {"test": 8}}
    monkeypatch.setattr(written, "GROUP_BYTES", 25_000)
    whole = make(**settings)
    monkeypatch.setattr(reader, "chunk_by_size", lambda items, most, size: chunk_by_size(items, most, size, 7_000))
    parts = make(**settings)
    entries = [[(entry.path, entry.digest) for entry in made.artifact.manifest.files] for made in (whole, parts)]
    assert entries[0] == entries[1]
    groups = pq.ParquetFile(whole.artifact.path("examples/train.parquet")).metadata
    assert groups.num_row_groups == 4, "32 rows of 3,000 characters, nine to a group"


@given(
    st.lists(st.lists(st.integers(0, 40), max_size=5), max_size=12),
    st.integers(1, 4),
    st.integers(1, 90),
)
def test_row_groups_are_told_from_the_rows_alone(parts: list[list[int]], rows: int, size: int) -> None:
    import tempfile

    schema = pa.schema([("text", pa.string()), ("n", pa.int64())])
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(written, "ROW_GROUP", rows)
        patch.setattr(written, "GROUP_BYTES", size)
        found = []
        for name, cut in (("a", parts), ("b", [[one] for part in parts for one in part])):
            writer = TableWriter(Path(folder) / name, schema)
            for part in cut:
                texts = ["x" * one for one in part]
                writer.write(pa.RecordBatch.from_arrays([pa.array(texts, pa.string()), pa.array(part)], schema=schema))
            writer.close()
            found.append((Path(folder) / name).read_bytes())
        assert found[0] == found[1]
        read = pq.ParquetFile(Path(folder) / "a")
        assert read.read().column("n").to_pylist() == [one for part in parts for one in part]
        for group in range(read.metadata.num_row_groups):
            texts = read.read_row_group(group).column("text").to_pylist()
            assert len(texts) <= rows
            assert sum(map(len, texts[:-1])) < size


def test_parquet_is_read_a_few_long_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"text": [f"{n}" * 10_000 for n in range(50)], "n": range(50)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=20, compression="none", use_dictionary=False)
    monkeypatch.setattr(parquet, "BATCH_BYTES", 60_000)
    with pq.ParquetFile(tmp_path / "a.parquet") as file:
        found = [batch.num_rows for batch in parquet.read_parquet_batches(file, 1024)]
        assert sum(found) == 50
        assert max(found) <= 6
        assert [batch.num_columns for batch in parquet.read_parquet_batches(file, 1024, ["n"])] == [1] * len(found)
    read = [record.values["n"] for record in tables.read_parquet_rows(SourceFile(tmp_path / "a.parquet", "a.parquet"))]
    assert read == list(range(50))


def test_the_first_rows_that_decide_a_layout_are_fewer_where_rows_are_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _long_rows(tmp_path / "long.jsonl", 30, 5_000)
    seen: list[int] = []
    source = Jsonl(path="long.jsonl", prompt="text", answer="label")
    real = Jsonl.mapping
    monkeypatch.setattr(Jsonl, "mapping", lambda self, good: (seen.append(len(good)), real(self, good))[1])
    monkeypatch.setattr(bounds.chunk_by_size, "__defaults__", (20_000,))
    assert len(list(source.mapped(tmp_path, lambda text: None))) == 30
    assert seen == [4]
