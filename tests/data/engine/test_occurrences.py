"""The small memory of numbers and keys says what a dictionary says, and equal digests deceive nobody."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from luthier.data.engine import external_sort, reader
from luthier.data.engine import occurrences as seen
from luthier.data.engine.external_sort import NUMBER, SortedRuns
from luthier.data.engine.reader import SourceReader
from luthier.data.row import Batch
from luthier.data.source import Source


@pytest.mark.parametrize("spread", [50, 4000, 2**64 - 1])
def test_it_counts_as_a_dictionary_does(spread: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "_RUN", 64)
    monkeypatch.setattr(external_sort, "_BLOCK", 50)
    monkeypatch.setattr(seen, "_FILTER_BITS", 1 << 12)  # nearly every look-up passes the filter
    chance = random.Random(spread)
    counts: Counter[int] = Counter()
    found = seen.OccurrenceCounter(tmp_path)
    for _ in range(3000):
        number = chance.randrange(spread)
        assert found.count(number) == counts[number]
        counts[number] += 1
    assert list(tmp_path.iterdir()) == []  # no name is left of what lies on the disk


@pytest.mark.parametrize("spread", [50, 4000, 2**64 - 1])
@pytest.mark.parametrize("digests", [1, 30, None])
def test_it_tells_with_what_a_key_came_first(
    spread: int, digests: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all keys have one digest, or a few."""
    monkeypatch.setattr(seen, "_RUN", 64)
    monkeypatch.setattr(seen, "_FILTER_BITS", 1 << 12)
    if digests is not None:
        monkeypatch.setattr(seen, "digest8", lambda key: len(key) % digests)
    chance = random.Random(spread)
    values: dict[str, int] = {}
    found = seen.FirstValueByKey(tmp_path)
    for line in range(2000 if digests is None else 300):
        key = f"é\udc80{chance.randrange(spread)}" * chance.randint(1, 3)
        assert found.value(key, line) == values.get(key)
        values.setdefault(key, line)


def test_runs_give_back_all_records_of_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_sort, "_BLOCK", 3)
    kind = np.dtype([("number", "<u8"), ("value", "<i8")])
    found = SortedRuns(kind, tmp_path)
    largest = 2**64 - 1
    for start in range(0, 60, 5):
        found.add(np.array([(largest if at % 7 == 0 else at % 3, at) for at in range(start, start + 5)], dtype=kind))
    assert sorted(found.of(largest)["value"].tolist()) == [at for at in range(60) if at % 7 == 0]
    assert sorted(found.of(1)["value"].tolist()) == [at for at in range(60) if at % 7 and at % 3 == 1]
    assert len(found.of(9)) == len(SortedRuns(NUMBER, None).of(0)) == 0


def _read(folder: Path, rows: list[dict[str, str]]) -> list[tuple[str, str]]:
    """Ids and answers of the rows that come out of a file."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"kind": "jsonl", "path": "rows.jsonl", "prompt": "q", "answer": "a", "on_error": "drop"}
    source = Source.parse({**settings, "id": "key"} if "key" in rows[0] else settings)
    fed = SourceReader(source, folder, lambda text: None, batch_rows=4, scratch=folder).batches()
    return [(row.id, row.answer) for one in fed if isinstance(one.rows, Batch) for row in one.rows.rows]


@pytest.mark.parametrize("digests", [1, 3])
def test_rows_whose_digests_are_equal_are_neither_lost_nor_joined(
    digests: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids are digests of rows: where two rows have the same one, the second gets another, and a third yet another."""
    given = reader.example_id
    monkeypatch.setattr(seen, "_RUN", 4)

    def clashing(messages, label, meta, occurrence=0):  # type: ignore[no-untyped-def]
        if occurrence:  # every second row is given an id that stands there already
            return f"{(int(given(messages, label, meta), 16) + occurrence) % 40:016x}"
        return f"{len(messages[-1].content) % digests:016x}"

    monkeypatch.setattr(reader, "example_id", clashing)
    rows = [{"q": "why?", "a": "because" + "x" * at} for at in range(20)]
    found = _read(tmp_path, rows)
    assert [answer for _, answer in found] == [row["a"] for row in rows]
    assert len({one for one, _ in found}) == len(rows)


def test_ids_of_rows_whose_digests_are_equal_are_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen, "_RUN", 4)
    monkeypatch.setattr(seen, "digest8", lambda key: 7)
    rows = [{"key": f"k{at}", "q": "why?", "a": f"because {at}"} for at in range(20)]
    found = _read(tmp_path, [*rows, rows[3]])
    assert [answer for _, answer in found] == [row["a"] for row in rows]  # the last alone repeats an id
