"""What judgments come to: the truth of known tastes, who does not count, agreement, strengths, and when to stop."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eval.human.panel import assigned, candidates, careless, judged, preferring
from luthier.annotation.question import RatingQuestion
from luthier.annotation.questions.comparison import PairQuestion
from luthier.annotation.questions.faults import FaultsQuestion
from luthier.annotation.questions.rating import RatingScaleQuestion, RubricQuestion
from luthier.artifacts.annotation import Annotation
from luthier.core.errors import DataError
from luthier.eval.human.results import (
    HumanEvalSummary,
    compute_row_points,
    count_attention_checks,
    extract_preference_pairs,
    score_ratings,
    summarize_ratings,
)
from luthier.eval.human.study import BlindingKeyEntry, RatingCandidate, create_rating_assignment

PAIR, RATING, RUBRIC, FAULTS = PairQuestion(), RatingScaleQuestion(), RubricQuestion(), FaultsQuestion()
MODELS = ("tuned", "base")


def _opinion(
    asked: object, said: list[Annotation], question: RatingQuestion = PAIR, models: tuple[str, ...] = MODELS
) -> HumanEvalSummary:
    return summarize_ratings(asked, question, models, said, least_right=0.7, seed=1)  # type: ignore[arg-type]


def test_a_clear_taste_is_told_and_an_even_one_is_not() -> None:
    asked = assigned(PAIR, 60)
    clear = _opinion(asked, judged(asked, dict.fromkeys(asked.sheets, preferring("tuned", 0.85))))
    assert clear.sentence.startswith("People prefer tuned to base: tuned is preferred in ")
    assert clear.stop.startswith("You may stop: tuned is better")
    assert (clear.numbers["people.difference"].low or 0) > 0
    assert clear.numbers["people.attention_checks"].value == 1
    even = _opinion(asked, judged(asked, dict.fromkeys(asked.sheets, preferring("tuned", 0.5)), seed=3))
    assert even.sentence.startswith("No clear preference between tuned and base")
    assert even.stop.startswith("Not decided after 60 rows")
    worse = _opinion(asked, judged(asked, dict.fromkeys(asked.sheets, preferring("base", 0.9))))
    assert worse.sentence.startswith("People prefer base to tuned: tuned is preferred in 1")


def test_people_may_all_be_of_one_mind() -> None:
    asked = assigned(PAIR, 30)
    found = _opinion(asked, judged(asked, dict.fromkeys(asked.sheets, preferring("tuned", 1.0))))
    assert found.sentence.startswith("People prefer tuned to base: tuned is preferred in 100% of the rows")
    assert "people.agreement" not in found.numbers
    asked = assigned(RATING, 30, planted=0)
    same = [Annotation(judge, 4, item) for judge, sheet in asked.sheets.items() for item in sheet]
    assert _opinion(asked, same, RATING).numbers["people.points"].value == 4.0


def test_one_who_does_not_read_does_not_count() -> None:
    asked = assigned(PAIR, 60)
    tastes = {"anna": preferring("tuned", 0.9), "ben": careless, "cleo": preferring("tuned", 0.9)}
    said = judged(asked, tastes)
    assert count_attention_checks(asked, PAIR, said)["anna"] == (6, 6)
    right, seen = count_attention_checks(asked, PAIR, said)["ben"]
    assert right < 0.7 * seen
    found = _opinion(asked, said)
    assert list(found.left_out) == ["ben"]
    assert found.judgments == sum(one.annotator != "ben" and not asked.key[one.item].planted for one in said)
    assert "1 of the judges failed" in found.sentence
    first = found.numbers["people.first_shown"]
    assert (first.low or 0) < 0.5 < (first.high or 1)
    with pytest.raises(DataError, match="every judge failed"):
        _opinion(asked, judged(asked, dict.fromkeys(asked.sheets, careless)))
    with pytest.raises(DataError, match="no judgment counts"):
        _opinion(asked, [])


def test_where_every_judge_failed_nobody_is_waited_for() -> None:
    """Equal answers are draws without anybody; of those who failed, nothing is still to come."""
    asked = replace(assigned(PAIR, 60), same={"equal": ("row", "tuned", "base")})
    found = _opinion(asked, judged(asked, dict.fromkeys(asked.sheets, careless)))
    assert found.judgments == 0
    assert found.stop.endswith("nobody's judgments count, for every judge failed the planted items: let others judge.")
    tastes = {**dict.fromkeys(asked.sheets, careless), "anna": preferring("tuned", 0.5)}
    assert _opinion(asked, judged(asked, tastes, seed=3)).stop.endswith("assign more rows to decide.")


def test_judges_of_one_row_are_averaged_first_and_passes_do_not_count() -> None:
    asked = assigned(PAIR, 2, planted=0, overlap=3)
    (one, entry), (other, _) = sorted(asked.key.items())
    tuned, base = ("AB"[entry.models.index(name)] for name in MODELS)
    said = [
        Annotation("anna", tuned, one),
        Annotation("ben", tuned, one),
        Annotation("cleo", base, one),
        Annotation("anna", "tie", other),
        Annotation("ben", None, other),
    ]
    heard = score_ratings(asked, PAIR, said)
    assert len(heard) == 4
    points = compute_row_points(asked, PAIR, heard)
    assert points[entry.row] == pytest.approx({"tuned": 2 / 3, "base": 1 / 3})
    found = _opinion(asked, said)
    assert found.numbers["people.points"].value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.numbers["people.difference"].value == pytest.approx((1 / 3 + 0) / 2)
    assert found.numbers["people.ties"].value == pytest.approx(1 / 4)
    (judges,) = (table for table in found.tables if table.title == "Who judged")
    assert [(row[0], row[1], row[2]) for row in judges.rows] == [("anna", 2, 0), ("ben", 2, 1), ("cleo", 1, 0)]


def test_equal_answers_count_as_half_a_win() -> None:
    rows = candidates(4)
    rows[:2] = [
        RatingCandidate(row=f"same{n}", prompt=rows[n].prompt, answers={"tuned": "x", "base": "x"}, reference="y")
        for n in range(2)
    ]
    asked = create_rating_assignment(rows, [MODELS], rows=None, judges=("anna",), overlap=1, planted=0, seed=1)
    found = _opinion(asked, judged(asked, {"anna": preferring("tuned", 1.0)}))
    assert found.numbers["people.points"].value == pytest.approx(0.75)


def test_of_three_models_each_pair_is_told_and_strengths_put_them_in_order() -> None:
    models = ("tuned", "base", "tiny")
    asked = assigned(PAIR, 50, models=models)
    order = {name: place for place, name in enumerate(models)}

    def taste(item: object, entry: object, chance: object) -> str:
        if entry.planted:  # type: ignore[attr-defined]
            return "AB"[entry.good]  # type: ignore[attr-defined]
        a, b = entry.models  # type: ignore[attr-defined]
        better = (order[a] < order[b]) == (chance.random() < 0.8)  # type: ignore[attr-defined]
        return "A" if better else "B"

    found = _opinion(asked, judged(asked, dict.fromkeys(asked.sheets, taste)), models=models)
    (strengths,) = (table for table in found.tables if table.title.startswith("Strengths above tiny"))
    assert [row[0] for row in strengths.rows] == list(models)
    assert found.numbers["people.difference"].rows == found.numbers["people.difference.tiny"].rows == 50
    assert "tuned minus tiny" in found.numbers["people.difference.tiny"].about


def _rated(question: RatingQuestion, entry: BlindingKeyEntry) -> object:
    """What everybody thinks of an answer: tuned 2 or 3, base 1, a wrong one 0."""
    level = {"tuned": 2 + int(entry.row[3:]) % 2, "base": 1, "": 0}[(entry.models or ("",))[0]]
    if question.kind == "rating":
        return 1 + level
    if question.kind == "rubric":
        return dict.fromkeys(("correct", "complete", "clear"), level)
    return [{"start": place, "end": place + 1, "severity": "minor"} for place in range(3 - level)]


@pytest.mark.parametrize("question", [RATING, RUBRIC, FAULTS], ids=lambda question: question.kind)
def test_answers_alone_are_compared_on_the_same_rows(question: RatingQuestion) -> None:
    asked = assigned(question, 120)
    said = [
        Annotation(judge, question.check(_rated(question, asked.key[name]), asked.items[name].shown), name)
        for judge, sheet in asked.sheets.items()
        for name in sheet
    ]
    found = _opinion(asked, said, question)
    assert found.numbers["people.difference"].value > 0
    assert found.numbers["people.difference"].rows == 120
    assert found.numbers["people.agreement"].value == pytest.approx(1)
    assert found.sentence.startswith("People prefer tuned to base")
    assert found.left_out == {}
    assert found.stop.startswith(
        "You may stop: tuned" if question.kind != "faults" else ("You may stop", "Not decided")
    )


def test_preferences_are_whole_rows_and_clear_the_margin() -> None:
    asked = assigned(PAIR, 20, planted=0)
    heard = score_ratings(
        asked, PAIR, judged(asked, dict.fromkeys(asked.sheets, preferring("tuned", 0.8, ties=0.3)), seed=5)
    )
    every, sure = (extract_preference_pairs(asked, PAIR, heard, margin) for margin in (0.0, 0.5))
    assert len(sure) < len(every) <= 20
    assert {one["margin"] for one in sure} == {1.0}
    assert {one["margin"] for one in every} == {0.5, 1.0}
    for one in every:
        assert one["chosen"] != one["rejected"]
        assert one["prompt"][0]["content"].rstrip("?").split()[-1] == one["chosen"].split()[-1]
        assert one["judges"] == 2
    rated = assigned(RATING, 5, planted=0)
    told = [
        Annotation(judge, 5 if rated.key[name].models == ("tuned",) else 2, name)
        for judge, sheet in rated.sheets.items()
        for name in sheet
    ]
    pairs = extract_preference_pairs(rated, RATING, score_ratings(rated, RATING, told), 1.0)
    assert [one["chosen"].split()[0] for one in pairs] == ["tuned"] * 5
    assert {one["margin"] for one in pairs} == {3.0}


def test_the_order_of_judgments_changes_no_number() -> None:
    asked = assigned(PAIR, 30)
    said = judged(asked, dict.fromkeys(asked.sheets, preferring("tuned", 0.7, ties=0.2)))
    one, other = _opinion(asked, said), _opinion(asked, said[::-1])
    assert one.numbers == other.numbers


def test_models_that_say_the_same_everywhere_are_even_though_nobody_judged() -> None:
    rows = [
        RatingCandidate(row=f"r{n}", prompt=(), answers={"tuned": "x", "base": "x"}, reference="y") for n in range(9)
    ]
    asked = create_rating_assignment(rows, [MODELS], rows=None, judges=("anna",), overlap=1, planted=0, seed=1)
    assert asked.items == {}
    assert asked.sheets == {"anna": ()}
    found = _opinion(asked, [])
    assert found.numbers["people.points"].value == 0.5
    assert found.sentence.startswith("No clear preference between")
