"""Counting judgments as they come gives what counting all of them anew gives."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from eval.human.panel import assigned, careless, judged, preferring
from luthier.annotation.question import RatingQuestion
from luthier.annotation.questions.comparison import PairQuestion
from luthier.annotation.questions.rating import RatingScaleQuestion
from luthier.artifacts.annotation import Annotation
from luthier.eval.human.standings import compute_study_standings
from luthier.eval.human.study import Assignment
from luthier.eval.human.tally import RatingTally, describe_advice

PAIR, RATING = PairQuestion(), RatingScaleQuestion()


def _tally(asked: Assignment, said: list[Annotation], question: RatingQuestion = PAIR) -> RatingTally:
    tally = RatingTally(asked, question, ("tuned", "base"))
    tally.extend(said)
    return tally


def _state(tally: RatingTally) -> object:
    standings = tally.ranking.standings()
    return standings, {k: v for k, v in tally.wins.items() if v}, dict(tally.row_judgments), {
        judge: count for judge, count in tally.judged.items() if count
    }, {judge: pair for judge, pair in tally.attention_checks.items() if pair[1]}  # fmt: skip


@pytest.mark.parametrize("question", [PAIR, RATING], ids=["pair", "rating"])
def test_changed_and_withdrawn_judgments_leave_no_trace(question: RatingQuestion) -> None:
    asked = assigned(question, 30)
    chance = random.Random(3)
    values: tuple[object, ...] = ("A", "B", "tie", None) if question is PAIR else (1, 3, 5, None)
    pairs = [(judge, item) for judge, sheet in asked.sheets.items() for item in sheet]
    tally = _tally(asked, [], question)
    last: dict[tuple[str, str], Annotation] = {}
    for step in range(300):
        place = chance.choice(pairs)
        last.pop(place, None)
        if chance.random() < 0.2:
            tally.remove(*place)
        else:
            last[place] = Annotation(place[0], chance.choice(values), place[1])
            tally.add(last[place])
        if step % 60 == 0:
            assert _state(tally) == _state(_tally(asked, list(last.values()), question))
    assert _state(tally) == _state(_tally(asked, list(last.values()), question))


def test_one_who_does_not_read_stops_counting_once_that_shows() -> None:
    asked = assigned(PAIR, 40)
    tally = _tally(asked, judged(asked, {"anna": preferring("tuned", 0.9), "ben": careless}))
    assert list(tally.left_out) == ["ben"]
    assert tally.ranking.rows == sum(not asked.key[item].planted for item in asked.sheets["anna"])


def test_an_answer_costs_the_same_however_many_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = assigned(PAIR, 60, planted=0)
    said = judged(asked, dict.fromkeys(asked.sheets, preferring("tuned", 0.8)))
    tally = _tally(asked, said[:-1])
    assert tally.ranking.rows
    counted: list[object] = []
    monkeypatch.setattr(tally, "_count_rating", counted.append)
    tally.add(said[-1])
    assert counted == said[-1:]


def test_the_advice_is_a_sentence() -> None:
    asked = assigned(PAIR, 60)
    clear = _tally(asked, judged(asked, dict.fromkeys(asked.sheets, preferring("tuned", 0.9)))).ranking
    assert describe_advice(clear.advise(), clear.rows).startswith("You may stop: tuned is better by bounds")
    even = _tally(asked, judged(asked, dict.fromkeys(asked.sheets, preferring("tuned", 0.5)))).ranking
    told = describe_advice(even.advise(), even.rows)
    assert told.startswith("Not decided after 60 rows by bounds")
    ties = replace(asked, same={"equal": ("row", "tuned", "base")})
    assert compute_study_standings(_tally(ties, []), ties, PAIR, ("tuned", "base"), {}).stop == "Nothing is judged yet."
    told_ties = describe_advice(even.advise(), even.rows, 15)
    assert told_ties.startswith("Not decided after 60 rows, 15 of them ties of equal answers, by bounds")
    assert "tuned against base would take about" in told or "tuned against base is close to even" in told
