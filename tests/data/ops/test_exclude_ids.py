"""Rows that are named by their ids are left out, and the books say why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from data.conftest import Maker
from luthier.data.ops.exclude_ids import ExcludeIds
from tiny_models import tickets


def test_rows_are_left_out_by_the_ids_of_an_earlier_making(make: Maker, write: Callable[..., str]) -> None:
    source = {"kind": "jsonl", "path": write("t.jsonl", tickets(30)), "prompt": "message", "answer": "category"}
    first = make(source=source, split={"test": 5})
    ids = first.all()["id"].to_list()
    operator = {"kind": "exclude_ids", "ids": [ids[3], ids[7][:8]], "reason": "read and refused"}
    second = make(source=source, ops=["normalize", operator], split={"test": 5})
    assert second.summary.dropped == {"read and refused": 2}
    assert set(ids) - set(second.all()["id"]) == {ids[3], ids[7]}


def test_an_id_that_could_mean_anything_is_refused() -> None:
    with pytest.raises(ValidationError, match="too short to name a row"):
        ExcludeIds(ids=("ab12",))


def test_without_ids_nothing_happens(make: Maker, write: Callable[..., str]) -> None:
    source = {"kind": "jsonl", "path": write("t.jsonl", tickets(30)), "prompt": "message", "answer": "category"}
    assert make(source=source, ops=["exclude_ids"], split={"test": 5}).summary.dropped == {}
