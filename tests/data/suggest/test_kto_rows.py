"""KTO's rows: answers that nobody wants are counted, said, and left out when asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Make = Callable[..., Any]
Write = Callable[..., str]


def test_answers_that_nobody_wants_are_said_and_can_be_left_out(make: Make, write: Write) -> None:
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}", "label": n % 3 > 0} for n in range(12)]
    source = {"kind": "jsonl", "path": write("kto.jsonl", rows)}
    made = make(source=source, split={"test": 2}, task="text")
    assert sum(made.summary.rows.values()) == 12
    assert "4 of 12 rows have `label: false`" in made.notes
    rule = {"kind": "schema", "columns": {"label": {"allowed": [True]}}}
    assert "schema, columns: {label: {allowed: [true]}}" in made.notes, "the note says what is done here"
    fewer = make(source=source, ops=[rule], split={"test": 2}, task="text")
    assert sum(fewer.summary.rows.values()) == 8
    assert fewer.summary.dropped == {"schema label not allowed": 4}
