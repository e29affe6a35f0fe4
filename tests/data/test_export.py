"""Out again: an example's story, exports, and two versions compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.artifacts.dataset import has_split, list_splits, read_examples
from luthier.core.errors import DataError, UnknownName
from luthier.data.export import export_dataset
from luthier.data.history.compare import compare_datasets
from luthier.data.history.lineage import explain_example

Make = Callable[..., Any]
Write = Callable[..., str]
ROWS = [{"key": f"T{n}", "text": f"question <b>{n * n}</b> about my order", "label": "ab"[n % 2]} for n in range(12)]


@pytest.fixture
def made(make: Make, write: Write) -> Any:
    rows = [*ROWS, {**ROWS[0], "key": "T99"}]
    return make(
        source={"kind": "jsonl", "path": write("t.jsonl", rows), "prompt": "text", "answer": "label", "id": "key"},
        ops=["normalize", "language", "exact_dedup"],
        split={"test": 0.3},
    )


def test_the_story_of_a_kept_row(made: Any) -> None:
    row = made.split("test").row(0, named=True)
    told = explain_example(made.artifact, row["id"][:10])
    assert told["id"] == row["id"]
    assert told["split"] == "test"
    assert told["dropped"] is None
    assert told["origin"] == {"source": "jsonl", "file": "t.jsonl", "line": row["line"]}
    assert "".join(event["before"] for event in told["events"]).startswith("<b>")
    assert told["events"][0]["operator"] == "normalize"
    assert told["attributes"]["language"]["language"] == "en"
    assert told["messages"][0]["content"] == ROWS[row["line"] - 1]["text"].replace("<b>", "").replace("</b>", "")
    assert explain_example(made.artifact, f"T{row['line'] - 1}")["id"] == row["id"]
    json.dumps(told)


def test_the_story_of_a_dropped_row(made: Any) -> None:
    event = made.events.filter(made.events["action"] == "drop").row(0, named=True)
    told = explain_example(made.artifact, event["id"])
    assert told["split"] is None
    assert told["messages"] is None
    assert told["dropped"] == {
        "operator": "exact_dedup",
        "reason": "exact duplicate",
        "twin": made.all().filter(made.all()["line"] == 1)["id"][0],
        "similarity": 1.0,
    }
    assert told["origin"]["line"] == 13


def test_ids_that_nobody_bears(made: Any) -> None:
    for name, problem in (("ffffffffffff", "no example"), ("ab", "no example")):
        with pytest.raises(UnknownName, match=problem):
            explain_example(made.artifact, name)


def test_a_place_without_a_row_tells_of_those_beside_it(made: Any) -> None:
    for name, problem, remedy in (
        ("t.jsonl:99", "no example begins on line 99 of t.jsonl", "the next is on 13"),
        ("t.jsonl:0", "no example begins on line 0 of t.jsonl", "the next is on 1"),
        ("u.jsonl:3", "no example came from a file 'u.jsonl'", "did you mean 't.jsonl'?"),
    ):
        with pytest.raises(UnknownName, match=problem) as caught:
            explain_example(made.artifact, name)
        assert caught.value.hint == remedy


def test_a_row_between_others_is_told_of_both(make: Make, write: Write) -> None:
    text = "[" + ",\n\n".join(json.dumps({"id": n, "prompt": f"q{n}?", "completion": f"a{n}"}) for n in (41, 42)) + "]"
    made = make(source={"kind": "json", "path": write("w.json", text)}, split={"test": 0}, task="text")
    with pytest.raises(UnknownName, match=r"no example begins on line 2 of w\.json") as caught:
        explain_example(made.artifact, "w.json:2")
    assert caught.value.hint == "the next to it begin on 1 and 3"
    assert explain_example(made.artifact, "42")["messages"][0]["content"] == "q42?", (
        "found by the file's own `id`, unasked"
    )


def test_export_writes_the_documented_lines(made: Any, tmp_path: Path) -> None:
    paths = export_dataset(made.artifact, tmp_path / "out")
    assert [path.name for path in paths] == ["test.jsonl", "train.jsonl"]
    lines = [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 12
    assert set(lines[0]) == {"id", "origin", "kind", "messages", "label", "meta"}
    assert set(lines[0]["origin"]) == {"source", "file", "line"}
    by_line = {line["origin"]["line"]: line for line in lines}
    assert by_line[4]["meta"] == {"key": "T3"}
    assert by_line[4]["label"] == by_line[4]["messages"][-1]["content"] == "b"
    assert {line["id"] for line in lines} == {
        example.id for split in list_splits(made.artifact) for example in read_examples(made.artifact, split)
    }


def test_export_never_overwrites_what_is_not_its_own(made: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_dataset(made.artifact, out)
    export_dataset(made.artifact, out)
    (out / "test.jsonl").write_text("mine\n")
    with pytest.raises(DataError, match="differs from what would be written"):
        export_dataset(made.artifact, out)
    assert (out / "test.jsonl").read_text() == "mine\n"
    assert sorted(path.name for path in out.iterdir()) == ["test.jsonl", "train.jsonl"]
    with pytest.raises(UnknownName, match="cannot be exported as 'json'"):
        export_dataset(made.artifact, out, "json")


def test_two_versions(make: Make, write: Write) -> None:
    def version(rows: list[dict[str, Any]], **asked: Any) -> Any:
        return make(
            source={"kind": "jsonl", "path": write("v.jsonl", rows)}, **{"split": {"test": 0.3}, **asked}
        ).artifact

    rows = [{"text": row["text"], "label": row["label"]} for row in ROWS]
    first = version(rows)
    assert compare_datasets(first, version(rows)).counts() == {
        "same": 12,
        "added": 0,
        "lost": 0,
        "changed": 0,
        "moved": 0,
    }
    more = compare_datasets(
        first, version([{"text": "a new one", "label": "a"}, *rows[1:], {"text": "another", "label": "b"}])
    )
    assert more.counts() == {"same": 11, "added": 1, "lost": 0, "changed": 1, "moved": 0}
    clean = compare_datasets(first, version(rows, ops=["normalize"]))
    assert clean.counts()["changed"] == 12
    other = compare_datasets(first, version([*rows, rows[0]], ops=["exact_dedup"]))
    assert other.counts() == {"same": 12, "added": 0, "lost": 0, "changed": 0, "moved": 0}
    fewer = compare_datasets(first, version(rows[:9]))
    assert fewer.lost_because == {"not in its source": 3}
    contested = [{**rows[0], "label": "b"}, *rows]
    dropped = compare_datasets(first, version(contested, ops=[{"kind": "exact_dedup", "conflict": "drop"}]))
    assert dropped.lost_because == {"conflicting answers": 1}
    moved = compare_datasets(first, version(rows, split={"test": 0}))
    assert list(moved.moved) == ["test -> train"]


def test_the_reader_names_the_splits_it_has(made: Any) -> None:
    assert has_split(made.artifact, "train")
    assert not has_split(made.artifact, "validation")
    with pytest.raises(UnknownName, match="no split 'tests'") as caught:
        read_examples(made.artifact, "tests")
    assert "did you mean 'test'" in caught.value.hint
