"""Slips of the pen among the values of a column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.data.cleaning.spelling import find_misspellings
from luthier.data.suggest.propose import propose_recipe

Make = Callable[..., Any]
Write = Callable[..., str]


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ({"urgent": 60, "normal": 40, "urgnet": 1}, {"urgnet": "urgent"}),
        ({"urgent": 60, "urgnet": 10}, {}),
        ({"low": 60, "now": 1}, {}),
        ({"model-3": 60, "model-4": 1}, {}),
        ({"BILQ": 60, "BIL": 40, "BILZ": 30, "BILQW": 1}, {}),
        ({"urgent": 60, "Urgnet": 1, "URGENT": 2}, {"Urgnet": "urgent"}),
        ({"email": 60, "mail": 1, "e-mail": 2}, {"e-mail": "email"}),
        ({"typical": 60, "atypical": 2}, {}),
        ({"house": 60, "mouse": 2}, {}),
        ({"refund": 60, "erfund": 1, "refudn": 1}, {"erfund": "refund", "refudn": "refund"}),
        ({}, {}),
    ],
)
def test_rare_values_that_are_nearly_a_frequent_one(counts: dict[str, int], found: dict[str, str]) -> None:
    assert find_misspellings(counts) == found


def test_a_schema_is_proposed_for_it_and_marks_the_row(make: Make, write: Write, tmp_path: Path) -> None:
    rows = "".join(
        f"how do I do thing number {n},answer {n} for you,{'urgent' if n % 2 else 'normal'}\n" for n in range(80)
    )
    path = write("t.csv", f"question,answer,priority\n{rows}how is it done at all,like this,urgnet\n")
    proposal = propose_recipe(tmp_path / path, task="text")
    (rule,) = [one for one in proposal.ops if one["kind"] == "schema"]
    assert rule["columns"] == {"priority": {"allowed": ["normal", "urgent"], "required": False}}
    assert "'urgnet' in 1 row, 'urgent' in 40" in proposal.reasons["ops.schema"]
    made = make(source={**proposal.source, "path": path}, ops=[rule], split=proposal.split, task=proposal.task)
    broken = made.attributes("schema")["broken"]
    assert sorted(value for value in broken if value) == ["priority not allowed"]
    clean = write("c.csv", f"question,answer,priority\n{rows}")
    assert "schema" not in [one["kind"] for one in propose_recipe(tmp_path / clean, task="text").ops]
