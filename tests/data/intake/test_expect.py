"""How many rows a file holds is told from its size and its first rows, as near as a forecast needs, tiny rows too."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from luthier.data.intake.expect import expected
from luthier.data.source import Source
from luthier.data.split import Split

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
def test_rows_are_told_within_a_fifth(
    kind: str, written: Callable[[list[dict[str, str]]], str], words: int, tmp_path: Path
) -> None:
    rows = [{"question": " ".join(["why"] * words), "answer": "no"} for _ in range(3000)]
    (tmp_path / f"f.{kind}").write_text(written(rows))
    source = Source.parse({"kind": kind, "path": f"f.{kind}", "prompt": "question", "answer": "answer"})
    told = sum((expected(source, Split(), tmp_path).rows or {}).values())
    assert 2400 <= told <= 3600


def test_what_is_asked_for_bounds_it(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text(_jsonl([{"prompt": "a", "answer": "b"}] * 900))
    source = Source.parse({"kind": "jsonl", "path": "f.jsonl", "first": 300})
    assert sum((expected(source, Split(), tmp_path).rows or {}).values()) == 300
