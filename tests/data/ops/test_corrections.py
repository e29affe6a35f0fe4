"""Single rows are edited or left out as people decided, and the books say who and when."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from data.conftest import Maker
from luthier.core.errors import DataError
from luthier.data.history.corrections import RowCorrection, append_correction, read_corrections, read_row_decisions
from luthier.data.ops.corrections import CorrectionsOperator
from luthier.data.row import Row
from tiny_models import tickets

AT = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


def _decided(row: str, action: Any, **more: Any) -> RowCorrection:
    return RowCorrection(row=row, action=action, by="ana", at=AT, **more)


def test_rows_become_what_was_decided(make: Maker, write: Callable[..., str], tmp_path: Path) -> None:
    source = {"kind": "jsonl", "path": write("t.jsonl", tickets(30)), "prompt": "message", "answer": "category"}
    ids = make(source=source, split={"test": 5}).all()["id"].to_list()
    file = tmp_path / "corrections.jsonl"
    for one in (
        _decided(ids[2], "edit", field="messages[1].content", text="refund"),
        _decided(ids[2], "edit", field="messages[1].content", text="other"),
        _decided(ids[3], "drop", reason="spam:\n no question"),
        _decided(ids[4], "drop"),
        _decided(ids[4], "restore"),
        _decided(ids[5], "edit", field="messages[9].content", text="x"),
        _decided("0" * 16, "drop"),
    ):
        append_correction(file, one)
    second = make(source=source, ops=["normalize", {"kind": "corrections", "path": str(file)}], split={"test": 5})
    rows = second.all()
    assert second.summary.dropped == {"left out by hand": 1}
    assert set(ids) - set(rows["id"]) == {ids[3]}
    changed = rows.filter(rows["id"] == ids[2]).row(0, named=True)
    assert changed["label"] == "other"
    events = second.events.filter(second.events["operator"] == "corrections").sort("action").to_dicts()
    assert [one["reason"] for one in events] == [
        "left out by hand: ana, 2026-01-31 09:30 UTC: spam: no question",
        "corrected by hand (ana, 2026-01-31 09:30 UTC)",
    ]


def test_another_decision_is_another_data_set(tmp_path: Path) -> None:
    operator = CorrectionsOperator(path="c.jsonl")
    assert operator.fingerprint(tmp_path) is None
    append_correction(tmp_path / "c.jsonl", _decided("a" * 16, "drop"))
    first = operator.fingerprint(tmp_path)
    append_correction(tmp_path / "c.jsonl", _decided("b" * 16, "drop"))
    assert first != operator.fingerprint(tmp_path)


def test_what_is_no_decision_is_said_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    with pytest.raises(DataError, match="no such file"):
        CorrectionsOperator(path=str(file)).apply([Row(0, "a" * 16, "", "f", 1, "chat", ())])
    append_correction(file, _decided("a" * 16, "drop"))
    for wrong in (
        "{",
        json.dumps({"row": "a" * 16, "action": "edit", "by": "x", "at": AT.isoformat()}),
        json.dumps({"row": "a" * 16, "action": "drop", "by": "x", "at": "yesterday"}),
        json.dumps({"row": "a" * 16, "action": "edit", "field": "id", "text": "x", "by": "x", "at": AT.isoformat()}),
    ):
        file.write_text(_decided("a" * 16, "drop").model_dump_json() + "\n" + wrong)
        with pytest.raises(DataError, match="is no decision") as failed:
            list(read_corrections(file))
        assert failed.value.where.line == 2


def test_a_line_that_was_cut_off_does_not_spoil_the_next(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text(_decided("a" * 16, "drop").model_dump_json())
    append_correction(file, _decided("b" * 16, "drop"))
    assert set(read_row_decisions(file)) == {"a" * 16, "b" * 16}
