"""Rows between passes: what was written is read back, row by row and batch by batch, here and in another process."""

from __future__ import annotations

import pickle
from pathlib import Path

from luthier.chat.messages import Message
from luthier.data.engine.spill import Spill, SpillWriter
from luthier.data.engine.tables import batch_from_arrow, spill_schema, to_arrow
from luthier.data.row import Batch, Row


def _row(number: int) -> Row:
    said = Message(role="assistant", content=f"text {number}")
    return Row(number, f"id{number}", "csv", "f.csv", number + 2, "completion", (said,), meta={"n": number})


def _spill(path: Path, sizes: list[int]) -> tuple[Spill, list[Row]]:
    writer = SpillWriter(path, spill_schema({}))
    rows: list[Row] = []
    for size in sizes:
        some = [_row(len(rows) + at) for at in range(size)]
        writer.write(to_arrow(Batch(some), writer.schema))
        rows += some
    return writer.close(), rows


def test_rows_come_back_one_by_one_and_in_batches(tmp_path: Path) -> None:
    spill, rows = _spill(tmp_path / "p.arrow", [3, 0, 1, 40])
    assert (spill.rows, len(spill)) == (44, 3)
    assert [row for table in spill.batches() for row in batch_from_arrow(table).rows] == rows
    assert [spill.row(place) for place in (0, 3, 4, 43)] == [rows[place] for place in (0, 3, 4, 43)]
    assert [spill.message_row(place).messages for place in (0, 4, 43)] == [rows[place].messages for place in (0, 4, 43)]
    assert spill.id(40) == "id40"


def test_another_process_opens_the_same_file(tmp_path: Path) -> None:
    spill, rows = _spill(tmp_path / "p.arrow", [2, 5])
    other = pickle.loads(pickle.dumps(spill))
    assert len(other) == len(spill)
    assert batch_from_arrow(other.batch(1)).rows == rows[2:]
    assert other.row(6) == rows[6]
    empty, _ = _spill(tmp_path / "none.arrow", [])
    assert list(pickle.loads(pickle.dumps(empty)).batches()) == []
