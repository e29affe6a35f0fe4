"""Assignments: blind, balanced, shuffled, the same every time."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from eval.human.panel import assigned, candidates
from luthier.annotation.questions.comparison import PairQuestion
from luthier.annotation.questions.rating import RatingScaleQuestion
from luthier.eval.human.study import RatingCandidate, create_rating_assignment

PAIR, RATING = PairQuestion(), RatingScaleQuestion()


def test_every_item_is_judged_by_so_many_and_loads_are_even() -> None:
    asked = assigned(PAIR, 41, overlap=2)
    shared = [name for name, entry in asked.key.items() if not entry.planted]
    assert len(shared) == 41
    times = Counter(name for sheet in asked.sheets.values() for name in sheet)
    assert {times[name] for name in shared} == {2}
    assert {times[name] for name in asked.key if name not in shared} == {3}
    assert max(map(len, asked.sheets.values())) - min(map(len, asked.sheets.values())) <= 1
    assert all(len(set(sheet)) == len(sheet) for sheet in asked.sheets.values())


def test_sides_are_balanced_and_orders_differ() -> None:
    asked = assigned(PAIR, 60, planted=0, overlap=3)
    first = Counter(entry.models[0] for entry in asked.key.values())
    assert first["tuned"] == first["base"] == 30
    sheets = list(asked.sheets.values())
    assert set(sheets[0]) == set(sheets[1]) == set(sheets[2])
    assert len(set(sheets)) == 3
    shuffled = [asked.key[name].row for name in sheets[0]]
    assert shuffled != sorted(shuffled)


def test_nothing_that_is_shown_says_whose_it_is() -> None:
    asked = assigned(PAIR, 30)
    texts = json.dumps([item._asdict() for item in asked.items.values()])
    for name, entry in asked.key.items():
        assert entry.row not in texts
        assert not set(entry.models) & set(asked.items[name]._asdict())
    assert "planted" not in texts
    assert {len(name) for name in asked.items} == {12}


def test_planted_items_hold_the_rows_own_reference_and_another() -> None:
    asked = assigned(PAIR, 30, rows=20)
    planted = {name: entry for name, entry in asked.key.items() if entry.planted}
    assert len(planted) == 6
    assert {entry.good for entry in planted.values()} == {0, 1}
    used = {entry.row for entry in asked.key.values() if not entry.planted}
    for name, entry in planted.items():
        number = int(entry.row[3:])
        assert asked.items[name].answers[entry.good or 0] == f"the answer is {number}"
        assert asked.items[name].answers[1 - (entry.good or 0)] != f"the answer is {number}"
        assert entry.row not in used
    for entry in (entry for entry in assigned(RATING, 30, rows=20).key.values() if entry.planted):
        assert entry.good is None
    places = [
        place / len(sheet) for sheet in asked.sheets.values() for place, name in enumerate(sheet) if name in planted
    ]
    assert min(places) < 0.3
    assert max(places) > 0.7


def test_drawn_by_content_whatever_the_order_and_otherwise_by_another_seed() -> None:
    rows = candidates(50)
    told = {"rows": 10, "judges": ("anna",), "overlap": 1, "planted": 2}
    one = create_rating_assignment(rows, [("tuned", "base")], seed=3, **told)  # type: ignore[arg-type]
    assert create_rating_assignment(rows[::-1], [("tuned", "base")], seed=3, **told) == one  # type: ignore[arg-type]
    other = create_rating_assignment(rows, [("tuned", "base")], seed=4, **told)  # type: ignore[arg-type]
    assert {entry.row for entry in one.key.values()} != {entry.row for entry in other.key.values()}


def test_equal_answers_are_ties_that_nobody_is_asked_about() -> None:
    rows = candidates(10)
    rows[3] = RatingCandidate(row="same", prompt=rows[3].prompt, answers={"tuned": "x", "base": "x"}, reference="x")
    found = create_rating_assignment(
        rows, [("tuned", "base")], rows=None, judges=("anna",), overlap=1, planted=0, seed=1
    )
    assert [row for row, *_ in found.same.values()] == ["same"]
    assert "same" not in {entry.row for entry in found.key.values()}
    assert len(found.items) == 9


@pytest.mark.parametrize(("models", "items"), [(("a", "b", "c"), 60), (("a", "b"), 20)])
def test_all_pairs_of_several_models_are_judged(models: tuple[str, ...], items: int) -> None:
    asked = assigned(PAIR, 20, models=models, planted=0)
    assert len(asked.items) == items
    assert len({tuple(sorted(entry.models)) for entry in asked.key.values()}) == items // 20
    assert len(assigned(RATING, 20, models=models, planted=0).items) == 20 * len(models)
