"""Whatever a recipe asks for: rows in are rows trained, held out or dropped with a reason, once each.

Recipes are drawn from all operators that there are, with rows that are whole, broken, twins of each other, labels,
texts or pairs of answers.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.core.component import components_by_kind
from luthier.core.errors import DataError
from luthier.data.operator import Operator

Make = Callable[..., Any]
_NUMBERS = count()
Write = Callable[..., str]

KINDS = sorted(kind for kind, part in components_by_kind(Operator).items() if part.__module__.startswith("luthier."))
SETTINGS: list[Any] = [
    {"kind": "exact_dedup", "conflict": "drop"},
    {"kind": "near_dedup", "action": "flag"},
    {"kind": "near_dedup", "measure": "edit", "unit": "word", "keep": "longest"},
    {"kind": "semantic_dedup", "action": "flag"},
    {"kind": "language", "keep": ["en"], "min_chars": 8},
    {"kind": "pii", "action": "drop"},
    {"kind": "pii", "action": "pseudonymise", "consistent": "corpus"},
    {"kind": "length", "min": 4, "max": 30},
    {"kind": "schema", "columns": {"who": {"allowed": ["x", "y"]}}},
    {"kind": "boilerplate", "min": 2, "min_chars": 5},
    {"kind": "normal_forms", "order": "day_first", "decimal": "comma"},
    {"kind": "markup", "dialects": ["markdown", "bbcode"]},
    {"kind": "toxicity", "action": "drop"},
]
TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "Where is my order?",
            "where is  my order?",
            "Mail me: jo@example.com, card 4111 1111 1111 1111",
            "",
            "wo ist mein paket bitte",
            "It works.\n\nKind regards\nAnn\n\nOn 3 Feb 2025 Desk wrote:\n> Try again.\n",
            "[b]Paid[/b] 1.234,56 EUR on 03/04/2025 | damn <br> &amp;",
            "Please do not reply to this mail\nthanks for the parcel number 7",
            "Please do not reply to this mail\nthanks for the parcel number 8",
        ]
    ),
)
ROW = st.fixed_dictionaries(
    {"text": TEXTS, "label": st.sampled_from(["a", "b", "A ", ""]), "who": st.sampled_from("xyz")},
    optional={"rejected": TEXTS},
)
HOLDS_NUL = '{"text": "Is it\x00here?", "label": "a"}'
"""Of few NULs alone in a short file, it would be said that it is not text."""
LINES = st.lists(
    st.one_of(ROW.map(json.dumps), st.sampled_from(["{", '{"text": 1', "[]", '{"label": "a"}', HOLDS_NUL])),
    min_size=1,
    max_size=24,
)
RECIPES = st.fixed_dictionaries(
    {
        "ops": st.lists(st.one_of(st.sampled_from(KINDS), st.sampled_from(SETTINGS)), max_size=5),
        "split": st.fixed_dictionaries(
            {
                "test": st.sampled_from([0, 0.2, 3]),
                "validation": st.sampled_from([0, 0.1, 2]),
                "train": st.sampled_from([None, 5]),
                "group": st.sampled_from([None, "who"]),
            }
        ),
        "task": st.just("text"),
    }
)
_NOTHING_LEFT = ("no row is left", "no row can be used")


NAMES = ["text", "label", "who"]


def _as_cell(text: str) -> str:
    """A text that a cell of any table can hold."""
    return text.encode("utf-8", "ignore").decode().replace("\x00", "")


def _nothing_was_left(error: DataError) -> None:
    assert any(part in error.message for part in _NOTHING_LEFT), error


def _drawn(many: int) -> list[Any]:
    """How many recipes are drawn: in the quick suite a few, and else so many."""
    return [pytest.param(many, marks=pytest.mark.slow), many // 3]


def _with_examples(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("examples", _drawn(80))
def test_every_row_is_trained_held_out_or_dropped_with_a_reason(make: Make, write: Write, examples: int) -> None:
    @_with_examples(examples)
    @given(lines=LINES, recipe=RECIPES, batch=st.integers(1, 9))
    def check(lines: list[str], recipe: dict[str, Any], batch: int) -> None:
        lines = [json.dumps({"text": "Is it here?", "label": "a", "who": "x"}), *lines]
        path = write("rows.jsonl", "\n".join(lines).encode())
        _balanced(make, {"kind": "jsonl", "path": path}, len(lines), recipe, batch)

    check()


@pytest.mark.parametrize("examples", _drawn(40))
def test_the_same_is_true_of_tables(make: Make, write: Write, tmp_path: Path, examples: int) -> None:
    """In CSV, rows may have too few cells or too many."""

    @_with_examples(examples)
    @given(
        cells=st.lists(st.lists(TEXTS.map(_as_cell), min_size=1, max_size=5), max_size=16),
        form=st.sampled_from(["csv", "json", "parquet"]),
        recipe=RECIPES,
    )
    def check(cells: list[list[str]], form: str, recipe: dict[str, Any]) -> None:
        table = [["Is it here?", "a", "x"], *cells]
        fitting = [dict(zip(NAMES, [*row, "", "", ""][:3], strict=True)) for row in table]
        if form == "csv":
            text = io.StringIO()
            csv.writer(text).writerows([NAMES, *table])
            path = write("rows.csv", text.getvalue().encode())
        elif form == "json":
            path = write("rows.json", json.dumps(fitting).encode())
        else:
            path = "rows.parquet"
            pl.DataFrame(fitting).write_parquet(tmp_path / path)
        _balanced(make, {"kind": form, "path": path}, len(table), recipe, 5)

    check()


def _balanced(make: Make, source: dict[str, Any], rows: int, recipe: dict[str, Any], batch: int) -> None:
    source = {**source, "prompt": "text", "answer": "label", "on_error": "drop"}
    try:
        made = make(source=source, **recipe, batch_rows=batch)
    except DataError as error:
        _nothing_was_left(error)
        return
    summary, kept = made.summary, made.all()["id"].to_list()
    drops = made.events.filter(pl.col("action") == "drop")
    assert summary.rows_in == rows == len(kept) + drops.height
    assert sum(summary.rows.values()) == len(kept) == len(set(kept))
    assert drops["id"].n_unique() == drops.height
    assert not set(drops["id"]) & set(kept)
    assert all(reason.strip() for reason in drops["reason"])
    assert Counter(reason.partition(": ")[0] for reason in drops["reason"]) == summary.dropped
    assert set(drops["operator"].unique()) - {None} or drops.height == 0


OPS = st.one_of(st.sampled_from(KINDS), st.sampled_from(SETTINGS))
CHANGES = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["put", "leave out", "change"]), OPS), max_size=2)


@pytest.mark.parametrize("examples", _drawn(80))
def test_what_is_taken_over_from_a_making_before_changes_nothing(
    make: Make, write: Write, tmp_path: Path, examples: int
) -> None:
    @_with_examples(examples)
    @given(lines=LINES, recipe=RECIPES, changes=CHANGES, split=st.none() | RECIPES, batch=st.integers(1, 9))
    def check(
        lines: list[str],
        recipe: dict[str, Any],
        changes: list[tuple[int, str, Any]],
        split: dict[str, Any] | None,
        batch: int,
    ) -> None:
        lines = [json.dumps({"text": "Is it here?", "label": "a", "who": "x"}), *lines]
        path = write("rows.jsonl", "\n".join(lines).encode())
        kept = tmp_path / f"kept{next(_NUMBERS)}"
        source = {"kind": "jsonl", "path": path, "prompt": "text", "answer": "label", "on_error": "drop"}
        with suppress(DataError):
            make(source=source, **recipe, batch_rows=batch, kept=kept)
        ops = list(recipe["ops"])
        for place, what, other in changes:
            ops[place : place + (what != "put")] = [] if what == "leave out" else [other]
        second = {"source": source, **(split or recipe), "ops": ops}
        try:
            fresh = make(**second)
        except DataError as error:
            with pytest.raises(DataError, match=re.escape(error.message)):
                make(**second, kept=kept)
            return
        again = make(**second, kept=kept)
        assert again.files() == fresh.files()
        without = [note for note in again.notes.split("\n") if not note.startswith("reused from")]
        assert without == fresh.notes.split("\n")

    check()
