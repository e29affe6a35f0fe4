"""Pairs of rated answers: the highest with the lowest, all that are apart, thumbs, ties and what is in no pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars
import pytest
from pydantic import ValidationError

from eval.evaluations import dataset, made
from luthier.artifacts.dataset import DatasetSummary, read_examples
from luthier.chat.messages import Example, answer_of
from luthier.chat.preference import PreferencePair, pair_of
from luthier.core.errors import DataError
from luthier.core.store import Store
from luthier.data.row import RankedPair, UnpairedRow, pairs_by_rating, rating_of
from luthier.data.steps.preferences import Preferences
from tuning import chat


def rated(question: str, answer: str, **meta: Any) -> Example:
    return chat(question, answer, len(answer) + 10 * len(question)).model_copy(update={"label": None, "meta": meta})


ROWS = [
    rated("Is it?", "yes", rating=5, by="Ann"),
    rated("Is it?", "perhaps", rating="3"),
    rated("Is it?", "no", rating=1.5),
    rated("Alone?", "indeed", rating=4),
    rated("Tied?", "so", rating=2),
    rated("Tied?", "so, so", rating=2),
    rated("Near?", "this", rating=2),
    rated("Near?", "that one", rating=2.5),
    rated("Is it?", "unrated"),
]


def told(rows: list[Example], **fields: Any) -> tuple[list[tuple[str, str, float]], dict[str, str]]:
    found = list(pairs_by_rating(rows, **{"column": "rating", "margin": 1.0, "take": "extremes", **fields}))
    pairs = [(answer_of(one.row), answer_of(one.other), one.margin) for one in found if isinstance(one, RankedPair)]
    return pairs, {answer_of(one.row): one.why for one in found if isinstance(one, UnpairedRow)}


def test_the_highest_is_paired_with_the_lowest() -> None:
    pairs, left = told(ROWS)
    assert pairs == [("yes", "no", 3.5)]
    assert left == {
        "perhaps": "no other is 1 points apart",
        "indeed": "no other answer to its prompt was rated",
        "so": "a tie: all answers to its prompt are rated alike",
        "so, so": "a tie: all answers to its prompt are rated alike",
        "this": "no other is 1 points apart",
        "that one": "no other is 1 points apart",
        "unrated": "it has no rating in 'rating'",
    }


def test_all_that_are_apart_make_pairs() -> None:
    pairs, left = told(ROWS, take="all", margin=0.5)
    assert pairs == [("yes", "perhaps", 2.0), ("yes", "no", 3.5), ("perhaps", "no", 1.5), ("that one", "this", 0.5)]
    assert "perhaps" not in left


def test_thumbs_are_ratings() -> None:
    rows = [rated("Is it?", "yes", label=True), rated("Is it?", "no", label="down"), rated("Is it?", "?", label=None)]
    pairs, left = told(rows, column="label")
    assert pairs == [("yes", "no", 1.0)]
    assert left == {"?": "it has no rating in 'label'"}
    assert [rating_of(row, "label") for row in rows] == [1.0, 0.0, None]


def test_the_step_makes_pairs_of_every_split(tmp_path: Path) -> None:
    store = Store(tmp_path)
    data = dataset(store, ROWS, [rated("Really?", "yes", rating=5), rated("Really?", "no", rating=1)])
    found = made(store, Preferences(data="data"), {"data": data})
    assert DatasetSummary.read(found).rows == {"train": 1, "test": 1}
    (row,) = read_examples(found, "train")
    pair = pair_of(row)
    assert isinstance(pair, PreferencePair)
    assert (pair.chosen.content, pair.rejected.content, row.meta["margin"], row.meta["by"]) == ("yes", "no", 3.5, "Ann")
    assert row.kind == "preference"
    events = polars.read_parquet(found.path("events.parquet"))
    assert events.height == 7
    told_of = DatasetSummary.read(found)
    assert told_of.rows_in == sum(told_of.rows.values()) + sum(told_of.dropped.values())


def test_what_cannot_be_paired_is_said(tmp_path: Path) -> None:
    store = Store(tmp_path)
    data = dataset(store, ROWS[:1], ROWS[1:2])
    with pytest.raises(DataError, match="no row has a rating in 'stars'") as error:
        made(store, Preferences(data="data", rating="stars"), {"data": data})
    assert "rating" in error.value.hint
    with pytest.raises(DataError, match="no other answer to its prompt was rated"):
        made(store, Preferences(data="data"), {"data": data})


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "expected one of `data`, `evaluation` and `human_ratings`"),
        ({"data": "data", "evaluation": "evaluate"}, "expected one of `data`, `evaluation` and `human_ratings`"),
        ({"data": "data", "probes": ["refusal"]}, "probes chooses among what probes asked"),
        ({"evaluation": "evaluate", "margin": 2}, "margin is about rated answers"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Preferences.model_validate(settings)
