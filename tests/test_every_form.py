"""Every form of judgment keeps a form's promises: what is typed is kept, rubbish is refused, points stay in bounds."""

from __future__ import annotations

from typing import Any

import pytest

from documented import undescribed
from luthier.core.component import components_by_kind
from luthier.eval.form import InvalidRatingValue, RatingForm

KINDS = sorted(components_by_kind(RatingForm))
ANSWER = "The parcel is on its way and will arrive on Monday. " + "You can follow it on our page. " * 20
GOOD_WORDS: dict[str, list[str]] = {
    "pairwise": ["a", "B", " = ", "tie"],
    "likert": ["1", " 5 ", "3"],
    "rubric": ["0 0 0", "3, 2, 1", "3 3 3"],
    "spans": ["ok", 'minor "parcel"', 'major "on Monday": it is Tuesday; minor "will"'],
}


@pytest.fixture(params=KINDS)
def form(request: pytest.FixtureRequest) -> RatingForm:
    return RatingForm.parse(request.param)


def answers(form: RatingForm) -> tuple[str, ...]:
    """As many answers as the form shows."""
    return (ANSWER, "I do not know.")[: form.sides]


def said(form: RatingForm) -> list[Any]:
    """Values of every kind that the form knows."""
    words = GOOD_WORDS.get(form.kind)
    assert words, f"add words for {form.kind} to this test"
    return [form.check(form.typed(word), answers(form)) for word in words]


def test_it_is_documented_and_its_settings_come_back(form: RatingForm) -> None:
    member = type(form)
    assert len(member.summary()) > 20
    assert undescribed(member) == []
    assert RatingForm.parse(form.settings()) == form
    assert form.question_text.rstrip()[-1] in "?." or "\n" in form.question_text
    assert form.legend


def test_what_is_kept_is_known_again_and_points_lie_in_bounds(form: RatingForm) -> None:
    low, high = form.bounds
    values = said(form)
    assert len({str(value) for value in values}) > 1
    for value in values:
        assert form.check(value, answers(form)) == value
        points = form.points(value, answers(form))
        assert len(points) == form.sides
        assert all(low <= one <= high for one in points)
    assert len({form.points(value, answers(form)) for value in values}) > 1


@pytest.mark.parametrize("rubbish", ["", "better", "99", "-1", "1.5 x", '"', "major", "a b"])
def test_rubbish_typed_is_refused_in_words(form: RatingForm, rubbish: str) -> None:
    with pytest.raises(InvalidRatingValue, match=r"expected|no place"):
        form.check(form.typed(rubbish), answers(form))


@pytest.mark.parametrize(
    "rubbish", [None, True, 99, -1, 2.5, "x", {"x": 1}, [{"severity": "major"}], [1], float("nan")]
)
def test_rubbish_in_files_is_refused_in_words(form: RatingForm, rubbish: Any) -> None:
    with pytest.raises(InvalidRatingValue, match=r"expected|no place"):
        form.check(rubbish, answers(form))


def test_two_people_compare_whatever_side_they_saw(form: RatingForm) -> None:
    for value in said(form):
        one = form.to_comparable(value, answers(form), ("tuned", "base")[: form.sides])
        assert isinstance(one, str if form.level == "nominal" else int | float)


def test_planted_items_tell_readers_from_those_who_do_not_read(form: RatingForm) -> None:
    values = said(form)
    for good in (0, 1) if form.sides == 2 else (None,):
        outcomes = {form.passes(value, answers(form), good) for value in values}
        assert outcomes == {True, False}


def test_each_setting_changes_something_that_people_see_or_earn(form: RatingForm) -> None:
    changes: dict[str, dict[str, Any]] = {
        "pairwise": {"question": "Which is true?", "ties": False},
        "likert": {"question": "How true?", "scale": 7, "ends": ("bad", "good")},
        "rubric": {"question": "How true?", "criteria": [{"name": "true"}], "max": 5},
        "spans": {"question": "What is false?", "minor": 2, "major": 9, "max": 5},
    }

    def seen(one: RatingForm) -> list[Any]:
        earned = []
        for word in GOOD_WORDS[one.kind]:
            try:
                earned.append(one.points(one.check(one.typed(word), answers(one)), answers(one)))
            except InvalidRatingValue:
                earned.append(None)
        return [one.question_text, one.legend, one.bounds, earned]

    told = changes[form.kind]
    assert set(told) == set(type(form).model_fields) - {"kind"}
    for name, value in told.items():
        assert seen(RatingForm.parse({"kind": form.kind, name: value})) != seen(form), name
