"""How many rows a file holds is told from its size and its first rows, as near as a forecast needs, tiny rows too."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from luthier.artifacts.dataset import OUTLINED
from luthier.core.errors import DataError
from luthier.data.source import Source
from luthier.data.split import Split
from luthier.data.suggest.settings import predict_dataset_spec

Write = Callable[[str, str], str]


def _jsonl(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _csv(rows: list[dict[str, str]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize("words", [1, 4, 60])
@pytest.mark.parametrize(("kind", "written"), [("jsonl", _jsonl), ("csv", _csv)])
def test_rows_of_a_file_too_long_to_look_at_whole_are_told_within_a_fifth(
    kind: str,
    written: Callable[[list[dict[str, str]]], str],
    words: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("luthier.data.suggest.settings._LOOKING_S", 0.0)
    rows = [{"question": " ".join(["why"] * words), "answer": "no"} for _ in range(3000)]
    (tmp_path / f"f.{kind}").write_text(written(rows))
    source = Source.parse({"kind": kind, "path": f"f.{kind}", "prompt": "question", "answer": "answer"})
    found = predict_dataset_spec(source, Split(), tmp_path)
    assert 2400 <= sum((found.rows or {}).values()) <= 3600
    assert found.how == "told from the first 200"


def test_what_is_asked_for_bounds_it(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text(_jsonl([{"prompt": "a", "answer": "b"}] * 900))
    source = Source.parse({"kind": "jsonl", "path": "f.jsonl", "limit": 300})
    assert sum((predict_dataset_spec(source, Split(), tmp_path).rows or {}).values()) == 300


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, the file is read whole."""
    monkeypatch.setattr("luthier.data.suggest.settings._LOOKING_S", 60.0)


@pytest.mark.usefixtures("patient")
def test_a_sorted_file_is_looked_at_to_its_end(tmp_path: Path) -> None:
    """Of 77 classes, two were seen in the first rows: an evaluation of half an hour was told as two minutes."""
    rows = [{"prompt": f"ask {n} " + "so " * (n // 50), "answer": f"class {n // 50:02d}"} for n in range(2000)]
    (tmp_path / "f.jsonl").write_text(_jsonl(rows))
    found = predict_dataset_spec(Source.parse({"kind": "jsonl", "path": "f.jsonl"}), Split(test=0.1), tmp_path)
    assert (found.rows, found.how) == ({"test": 200, "validation": 0, "train": 1800}, "before operators drop any")
    assert (found.task, len(found.answers)) == ("label", 40)
    assert len(found.examples) == OUTLINED
    seen = [len(one["messages"][0]["content"]) for one in found.examples]
    mean = sum(len(row["prompt"]) for row in rows) / len(rows)
    assert sum(seen) / len(seen) == pytest.approx(mean, rel=0.02)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("answer", ["a long answer of its own that no other row has, number {}", "so {}"])
def test_answers_that_are_no_classes_are_told_as_texts(answer: str, tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text(_jsonl([{"prompt": f"ask {n}", "answer": answer.format(n)} for n in range(500)]))
    assert predict_dataset_spec(Source.parse({"kind": "jsonl", "path": "f.jsonl"}), Split(), tmp_path).task == "text"


@pytest.mark.usefixtures("patient")
def test_what_is_wrong_further_on_is_for_the_run_and_does_not_count(tmp_path: Path) -> None:
    rows = [{"prompt": f"ask {n}", "answer": "yes"} for n in range(400)]
    rows[300] = {"prompt": "ask 300"}
    (tmp_path / "f.jsonl").write_text(_jsonl(rows))
    source = Source.parse({"kind": "jsonl", "path": "f.jsonl", "prompt": "prompt", "answer": "answer"})
    assert predict_dataset_spec(source, Split(test=0), tmp_path).rows == {"test": 0, "validation": 0, "train": 399}
    (tmp_path / "f.jsonl").write_text(_jsonl(rows[300:]))
    with pytest.raises(DataError, match=r"f\.jsonl:1"):
        predict_dataset_spec(source, Split(), tmp_path)
