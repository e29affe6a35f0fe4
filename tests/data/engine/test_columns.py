"""Columns laid out by hand, beside pyarrow's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.engine.columns import (
    int64_column_to_numpy,
    measure_byte_lengths,
    to_arrow_column,
    to_arrow_indices,
    to_arrow_mask,
)

GAP = st.none()
WHOLE = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.string(), st.lists(TEXTS | GAP)),
        (pa.string(), st.lists(st.text("ab ", max_size=5))),
        (pa.int64(), st.lists(WHOLE | GAP)),
        (pa.float64(), st.lists(st.floats(allow_nan=False) | WHOLE.map(float) | st.integers(-9, 9) | GAP)),
        (pa.bool_(), st.lists(st.booleans() | GAP)),
    ],
)
def test_a_column_is_what_pyarrow_makes_of_the_same_values(kind: pa.DataType, values: Any) -> None:
    @settings(deadline=None)
    @given(values)
    def check(some: list[Any]) -> None:
        ours = to_arrow_column(some, kind)
        ours.validate(full=True)
        assert ours.equals(pa.array(some, kind))
        assert ours.null_count == some.count(None)
        assert ours.to_pylist() == some

    check()


@settings(deadline=None)
@given(st.lists(st.booleans()))
def test_a_mask_filters_and_places_take_what_lists_would(wanted: list[bool]) -> None:
    numbers = pa.array(range(len(wanted)), pa.int64())
    chosen = [place for place, want in enumerate(wanted) if want]
    assert numbers.filter(to_arrow_mask(np.array(wanted, dtype=bool))).to_pylist() == chosen
    assert numbers.take(to_arrow_indices(np.array(chosen, dtype=np.int64))).to_pylist() == chosen


@settings(deadline=None)
@given(st.lists(TEXTS | GAP), st.integers(0, 5), st.integers(0, 5))
def test_bytes_are_counted_as_pyarrow_counts_them_in_any_part(values: list[str | None], start: int, end: int) -> None:
    for whole in (to_arrow_column(values, pa.string()), pa.array(values, pa.string())):
        part = whole[start : max(start, len(whole) - end)]
        for texts in (pa.chunked_array([part]), pa.chunked_array([part, whole, part])):
            expected = [0 if text is None else len(text.encode()) for text in texts.to_pylist()]
            assert measure_byte_lengths(texts).tolist() == expected
    assert measure_byte_lengths(pa.chunked_array([], pa.string())).tolist() == []


@settings(deadline=None)
@given(st.lists(WHOLE), st.integers(0, 5))
def test_counts_are_read_from_any_part(values: list[int], start: int) -> None:
    assert int64_column_to_numpy(to_arrow_column(values, pa.int64())[start:]).tolist() == values[start:]


@pytest.mark.parametrize(
    ("kind", "values"),
    [(pa.int64(), [1.5]), (pa.int64(), ["1"]), (pa.int64(), [2**63]), (pa.float64(), ["x"]), (pa.string(), [1])],
)
def test_a_value_of_another_type_is_refused_and_never_bent(kind: pa.DataType, values: list[Any]) -> None:
    with pytest.raises((TypeError, OverflowError)):
        to_arrow_column(values, kind)


def test_half_a_character_is_refused_as_pyarrow_refuses_it() -> None:
    with pytest.raises(UnicodeEncodeError):
        to_arrow_column(["\ud800"], pa.string())


def test_more_text_than_a_column_holds_is_told_by_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.data.engine.columns._MOST_BYTES", 4)
    assert to_arrow_column(["abc", "de"], pa.string()).to_pylist() == ["abc", "de"]


def test_preparing_imports_no_pandas(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"How do I mend the {thing}?", "answer": f"Glue the {thing} by hand."}
        for thing in ("chair", "table", "chair")
    ]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    code = """
import sys
from pathlib import Path
from luthier.core.events import RunEventEmitter
from luthier.core.step import StepContext
from luthier.data.engine.pipeline import PrepareOptions, prepare
from luthier.data.steps.prepare import Prepare

here = Path(sys.argv[1])
ops = ["normalize", "language", "pii", "exact_dedup", "near_dedup"]
step = Prepare.model_validate({"source": {"kind": "jsonl", "path": "rows.jsonl"}, "ops": ops, "split": {"test": 1}})
events = RunEventEmitter(lambda event: None).of("data")
made, scratch = here / "made", here / "scratch"
work = StepContext(name="data", inputs={}, folder=made, scratch=scratch, recipe_dir=here, seed=0, events=events)
made.mkdir()
scratch.mkdir()
prepare(step.source, step.ops, step.split, work, PrepareOptions(task="text"))
print(sorted(path.name for path in (here / "made" / "examples").iterdir()), "pandas" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code, tmp_path], check=False, capture_output=True, text=True)
    assert told.stdout.strip() == "['test.parquet', 'train.parquet'] False", told.stderr


def test_no_column_imports_pandas() -> None:
    code = """
import sys
import numpy as np, pyarrow as pa
from luthier.data.engine.columns import to_arrow_column, to_arrow_indices, to_arrow_mask
columns = [to_arrow_column(["a", None], pa.string()), to_arrow_column([1, 2], pa.int64())]
table = pa.RecordBatch.from_arrays(columns, names=["a", "b"])
table = table.filter(to_arrow_mask(np.array([True, False]))).take(to_arrow_indices(np.array([0])))
print(table.to_pydict(), "pandas" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "{'a': ['a'], 'b': [1]} False"
