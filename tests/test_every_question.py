"""Every question keeps a question's promises: what is typed is kept, rubbish is refused, each answer teaches."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest

from documented import undescribed
from luthier.annotation.question import InvalidAnswer, Question, QuestionItem, RatingQuestion
from luthier.core.component import components_by_kind

KINDS = sorted(components_by_kind(Question))
RATINGS = [kind for kind in KINDS if issubclass(components_by_kind(Question)[kind], RatingQuestion)]
ANSWER = "The parcel is on its way and will arrive on Monday. " + "You can follow it on our page. " * 20
COLUMNS = {"label", "labels", "spans", "chosen", "rejected", "rating", "answer", "messages"}
LABELS = ["Billing", {"name": "Delivery", "about": "Parcels", "key": "d"}, "Other"]
SCHEMA = {
    "type": "object",
    "properties": {"day": {"enum": ["Monday", "Tuesday"]}, "parcels": {"type": "integer"}},
    "required": ["day"],
    "additionalProperties": False,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "choice": {"labels": LABELS},
    "choices": {"labels": LABELS, "max": 2},
    "tree": {"labels": ["Billing / Refund", "Billing / Invoice / Wrong", "Delivery"]},
    "spans": {"labels": ["thing", "day"], "relations": ["arrives"]},
    "json": {"obeys": SCHEMA},
}
"""Settings of the kinds that need some, or show more with some."""
GOOD_WORDS: dict[str, list[str]] = {
    "choice": ["1", " billing ", "d", "Delivery", "2"],
    "choices": ["1", "Other, d", "-"],
    "tree": ["refund", "Billing / Invoice / Wrong", "delivery"],
    "spans": ["none", 'thing "parcel"', '1 "parcel"; day "Monday"; 1 arrives 2'],
    "pair": ["a", "B", " = ", "tie"],
    "ranking": ["b a c", "CAB", "a > b > c"],
    "rating": ["1", " 5 ", "3"],
    "rubric": ["0 0 0", "3, 2, 1", "3 3 3"],
    "faults": ["ok", 'minor "parcel"', 'major "on Monday": it is Tuesday; minor "will"'],
    "text": ["It arrives on Monday.", "I do not know: ask 12"],
    "correction": ["On Tuesday.", "1: Where is it?"],
    "json": ['{"day": "Monday"}', '{"parcels": 2, "day": "Tuesday"}'],
}
TAKES_ANY_TEXT = ("text", "correction")
RUBBISH = ["", "better", "99", "-1", "1.5 x", '"', "major", "a b"]
RUBBISH_IN_FILES: list[Any] = [
    None,
    True,
    99,
    -1,
    2.5,
    {"x": 1},
    [{"severity": "major"}],
    [1],
    float("nan"),
    [[]],
    {"spans": [3]},
]
CHANGES: dict[str, dict[str, Any]] = {
    "choice": {"question": "Which is true?", "labels": ["Billing", "Other"]},
    "choices": {"question": "Which is true?", "labels": ["Billing", "Other"], "min": 1, "max": 1},
    "tree": {"question": "Which is true?", "labels": ["Billing / Refund", "Delivery"]},
    "spans": {"question": "Which is true?", "labels": ["thing"], "relations": ["is"], "overlap": False},
    "pair": {"question": "Which is true?", "ties": False},
    "ranking": {"question": "Which is true?"},
    "rating": {"question": "How true?", "scale": 7, "ends": ("bad", "good")},
    "rubric": {"question": "How true?", "criteria": [{"name": "true"}], "max": 5},
    "faults": {"question": "What is false?", "minor": 2, "major": 9, "max": 5},
    "text": {"question": "What is true?", "max_length": 3},
    "correction": {"question": "What is true?", "roles": ["assistant"]},
    "json": {"question": "What is true?", "obeys": {"type": "array"}},
}


def make(kind: str, **changed: Any) -> Question:
    return Question.parse({"kind": kind, **SETTINGS.get(kind, {}), **changed})


@pytest.fixture(params=KINDS)
def question(request: pytest.FixtureRequest) -> Question:
    assert request.param in GOOD_WORDS, f"add words for {request.param} to this test"
    return make(request.param)


def item_for(question: Question) -> QuestionItem:
    """A conversation with as many answers as the question shows, and one more where it orders them."""
    answers = (ANSWER, "I do not know.", "Ask tomorrow.")
    count = 3 if question.kind == "ranking" else question.sides or int(question.kind in (*RATINGS, "spans"))
    told = ({"role": "user", "content": "Where is my parcel?"}, {"role": "assistant", "content": "On its way."})
    return QuestionItem(told, answers[:count])


def said(question: Question) -> list[Any]:
    """Values of every sort that the question knows."""
    item = item_for(question)
    return [question.check(question.typed(word, item), item) for word in GOOD_WORDS[question.kind]]


def test_it_is_documented_and_its_settings_come_back(question: Question) -> None:
    member = type(question)
    assert len(member.summary()) > 20
    assert undescribed(member) == []
    assert Question.parse(question.settings()) == question
    assert Question.parse(json.loads(json.dumps(question.settings()))) == question
    assert question.question_text.rstrip()[-1] in "?." or "\n" in question.question_text
    assert question.legend
    assert (files("luthier.studio") / "templates" / "widgets" / f"{member.widget}.html.jinja").is_file()


def test_what_is_kept_is_plain_json_and_known_again(question: Question) -> None:
    item, values = item_for(question), said(question)
    assert len({str(value) for value in values}) > 1
    for value in values:
        assert question.check(value, item) == value
        assert json.loads(json.dumps(value)) == value
        assert question.check(json.loads(json.dumps(value)), item) == value


def test_keys_differ_and_give_answers_that_are_known(question: Question) -> None:
    keys, item = question.keys, item_for(question)
    assert len({one.key for one in keys}) == len(keys)
    for one in keys:
        assert len(one.key) == 1
        assert one.key not in "fqsu"
        assert one.label
        assert question.check(one.value, item) == one.value


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_rubbish_typed_is_refused_in_words(question: Question, rubbish: str) -> None:
    if question.kind in TAKES_ANY_TEXT and rubbish:
        pytest.skip("any text is an answer")
    item = item_for(question)
    with pytest.raises(InvalidAnswer, match=r"expected|no place"):
        question.check(question.typed(rubbish, item), item)


@pytest.mark.parametrize("rubbish", RUBBISH_IN_FILES)
def test_rubbish_in_files_is_refused_in_words(question: Question, rubbish: Any) -> None:
    with pytest.raises(InvalidAnswer, match=r"expected|no place"):
        question.check(rubbish, item_for(question))


def test_each_answer_teaches_known_columns_of_plain_json(question: Question) -> None:
    item = item_for(question)
    learnt = [question.teaches(value, item) for value in said(question)]
    for columns in learnt:
        assert set(columns) <= COLUMNS
        assert json.loads(json.dumps(columns)) == dict(columns)
    assert len({json.dumps(columns) for columns in learnt}) > 1


def test_two_people_compare_and_who_says_the_same_is_alike(question: Question) -> None:
    item, values = item_for(question), said(question)
    for value in values:
        comparable = question.to_comparable(value, item)
        assert isinstance(comparable, str if question.level == "nominal" else int | float)
        assert question.to_comparable(json.loads(json.dumps(value)), item) == comparable
        assert question.similarity(value, value, item) == 1
        assert all(0 <= question.similarity(value, other, item) <= 1 for other in values)
    assert min(question.similarity(values[0], other, item) for other in values) < 1


def test_each_setting_changes_something_that_people_see_or_teach(question: Question) -> None:
    def seen(one: Question) -> list[Any]:
        item = item_for(one)
        taught: list[Any] = []
        for word in [*GOOD_WORDS[one.kind], 'thing "parcel"; day "parcel is"']:
            try:
                value = one.check(one.typed(word, item), item)
            except InvalidAnswer:
                taught.append(None)
            else:
                taught.append(
                    (one.teaches(value, item), one.points(value, item) if isinstance(one, RatingQuestion) else ())
                )
        return [one.question_text, one.legend, one.bounds if isinstance(one, RatingQuestion) else (), taught]

    told = CHANGES[question.kind]
    assert set(told) == set(type(question).model_fields) - {"kind"}
    for name, value in told.items():
        assert seen(make(question.kind, **{name: value})) != seen(question), name


@pytest.mark.parametrize("kind", RATINGS)
def test_points_lie_in_bounds(kind: str) -> None:
    question = make(kind)
    assert isinstance(question, RatingQuestion)
    (low, high), item = question.bounds, item_for(question)
    every = [question.points(value, item) for value in said(question)]
    assert len(set(every)) > 1
    for points in every:
        assert len(points) == len(item.answers)
        assert all(low <= one <= high for one in points)


@pytest.mark.parametrize("kind", RATINGS)
def test_planted_items_tell_readers_from_those_who_do_not_read(kind: str) -> None:
    question = make(kind)
    assert isinstance(question, RatingQuestion)
    values, item = said(question), item_for(question)
    for good in (0, 1) if question.sides == 2 else (None,):
        assert {question.passes(value, item, good) for value in values} == {True, False}
        assert question.passes(question.check(question.gold(good), item), item, good)
