"""What the books say is what happened: edits replay, and two versions compare as their rows do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.data.history.compare import compare_datasets
from luthier.data.history.lineage import explain_example

Make = Callable[..., Any]
Write = Callable[..., str]

TEXTS = st.lists(
    st.sampled_from(
        [
            "Where is <b>my</b> order?",
            "where is my order?",
            "schÃ¶ne GrÃ¼ÃŸe  aus MÃ¼nchen",
            "a &amp; b\t\tc",
            "two\n\n\n\nlines ",
            "call +49 30 23125 356 or mail jo@example.com",
            "???",
            "the parcel arrived late and the box was open when it came to us on monday",
            "the parcel arrived late and the box was open when it came to us on tuesday",
        ]
    ),
    min_size=3,
    max_size=14,
)
OPS = st.lists(
    st.sampled_from(
        [
            "normalize",
            "label_spelling",
            "exact_dedup",
            "quality",
            "decontaminate",
            {"kind": "near_dedup", "keep": "last"},
            {"kind": "near_dedup", "measure": "edit", "keep": "longest"},
            {"kind": "near_dedup", "measure": "edit", "unit": "word", "action": "flag"},
            {"kind": "pii", "action": "mask"},
        ]
    ),
    max_size=5,
)
SPLITS = st.fixed_dictionaries({"test": st.sampled_from([0, 0.3]), "validation": st.sampled_from([0, 2])})
_property = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _made(make: Make, write: Write, texts: list[str], ops: list[Any], split: dict[str, Any]) -> Any:
    rows = [{"text": text, "label": ["late", "Late ", "refund"][n % 3]} for n, text in enumerate(texts)]
    try:
        return make(source={"kind": "jsonl", "path": write("rows.jsonl", rows)}, ops=ops, split=split, task="text")
    except DataError as error:
        _nothing_was_left(error)
        return None


def _nothing_was_left(error: DataError) -> None:
    assert "no row is left" in error.message


@_property
@given(texts=TEXTS, ops=OPS, split=SPLITS)
def test_edits_replay_from_the_row_as_read_to_the_row_as_kept(
    make: Make, write: Write, texts: list[str], ops: list[Any], split: dict[str, Any]
) -> None:
    made = _made(make, write, texts, ops, split)
    if made is None:
        return
    labels = ["late", "Late ", "refund"]
    for row in made.all().iter_rows(named=True):
        told = explain_example(made.artifact, row["id"])
        number = row["line"] - 1
        turns = {"messages[0].content": texts[number].strip(), "messages[1].content": labels[number % 3].strip()}
        read = {"messages[0].content": texts[number], "messages[1].content": labels[number % 3]}
        for operator in dict.fromkeys(event["operator"] for event in told["events"]):
            for field in read:
                edits = [each for each in told["events"] if (each["operator"], each["field"]) == (operator, field)]
                for edit in sorted(edits, key=lambda each: -each["start"]):
                    read[field] = read[field][: edit["start"]] + edit["after"] + read[field][edit["end"] :]
        kept = {f"messages[{n}].content": turn["content"] for n, turn in enumerate(told["messages"])}
        assert kept in (read, turns)


@_property
@given(texts=TEXTS, ops=st.lists(OPS, min_size=2, max_size=2), splits=st.lists(SPLITS, min_size=2, max_size=2))
def test_two_versions_compare_as_their_rows_do(
    make: Make, write: Write, texts: list[str], ops: list[list[Any]], splits: list[dict[str, Any]]
) -> None:
    versions = [_made(make, write, texts, one, split) for one, split in zip(ops, splits, strict=True)]
    if None in versions:
        return
    first, second = (_rows(version) for version in versions)
    found = compare_datasets(versions[0].artifact, versions[1].artifact)
    both = first.keys() & second.keys()
    assert set(found.lost) == first.keys() - second.keys()
    assert set(found.added) == second.keys() - first.keys()
    assert set(found.changed) == {name for name in both if first[name][1] != second[name][1]}
    moved = {name: f"{first[name][0]} -> {second[name][0]}" for name in both if first[name][0] != second[name][0]}
    assert {name: way for way, names in found.moved.items() for name in names} == moved
    assert found.same == sum(first[name] == second[name] for name in both)
    assert sum(found.lost_because.values()) == len(found.lost)
    drops = versions[1].events.filter(pl.col("action") == "drop")
    reasons = {name: reason.partition(": ")[0] for name, reason in drops.select("id", "reason").iter_rows()}
    assert found.lost_because == {
        reason: sum(reasons[name] == reason for name in found.lost) for reason in {reasons[name] for name in found.lost}
    }


def _rows(made: Any) -> dict[str, tuple[str, str]]:
    return {
        row["id"]: (name, json.dumps(json.loads(row["messages"])))
        for name in made.summary.rows
        for row in made.split(name).iter_rows(named=True)
    }
