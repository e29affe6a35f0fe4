"""What is told of large files: how many rows they have, by what their first rows took."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from luthier.data.suggest.survey import profile_path

ROWS = 1000


@pytest.fixture(autouse=True)
def small_files_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.data.suggest.survey.WHOLE_BYTES", 10_000)
    monkeypatch.setattr("luthier.data.suggest.survey.LOOKED_AT", 100)


def text(at: int) -> str:
    """Of two lines, with quotes."""
    return f'line {at}\nsecond, with "quotes"' + "x" * (at * 7 % 80)


def told(file: Path) -> int:
    found = profile_path(file)
    assert found.estimated
    return found.rows


def test_rows_of_several_lines_and_fields_that_json_writes_otherwise(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label"], *([text(at), "AB"[at % 2]] for at in range(ROWS))])
    lines = [json.dumps({"text": text(at), "label": "AB"[at % 2], "more": "\u00fc" * 20}) for at in range(ROWS)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    for name in ("a.csv", "a.jsonl"):
        assert told(tmp_path / name) == pytest.approx(ROWS, rel=0.05)


def test_conversations_whose_messages_are_rows(tmp_path: Path) -> None:
    with (tmp_path / "c.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["conversation_id", "role", "content"])
        for at in range(ROWS):
            for turn in range(2 + at % 2 * 2):
                writer.writerow([at, ("user", "assistant")[turn % 2], f"{turn} {'y' * (at * 11 % 90)}"])
    assert profile_path(tmp_path / "c.csv").gathered
    assert told(tmp_path / "c.csv") == pytest.approx(ROWS, rel=0.05)


def test_a_file_without_lines_is_told_by_its_values(tmp_path: Path) -> None:
    rows = [{"text": text(at), "label": "AB"[at % 2]} for at in range(ROWS)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert told(tmp_path / "a.json") == pytest.approx(ROWS, rel=0.1)
