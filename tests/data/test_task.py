"""Whether answers are classes is told from a stream of them, and rows whose answer changes nothing are passed over."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.chat.messages import ExampleKind
from luthier.data.task import AnswerCounter

KINDS: tuple[ExampleKind, ...] = ("chat", "completion", "tool")


def test_answers_are_settled_when_there_are_too_many_and_it_is_known_why() -> None:
    answers = AnswerCounter(most=3)
    for answer in ("a", "b", "c", "a"):
        answers.add(answer, "chat")
        assert not answers.is_settled
    answers.add("d", "chat")
    assert answers.is_settled
    answers.pass_over(2)
    assert (answers.rows, list(answers.of_rows), answers.is_given_up) == (7, [], True)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([*"abcdefg", "x" * 70]), st.sampled_from(KINDS)), max_size=20))
def test_passing_over_says_what_looking_says(rows: list[tuple[str, ExampleKind]]) -> None:
    whole, quick = AnswerCounter(most=3), AnswerCounter(most=3)
    for answer, kind in rows:
        whole.add(answer, kind)
        if quick.is_settled:
            quick.pass_over(1)
        else:
            quick.add(answer, kind)
    assert (quick.rows, quick.labels, quick.of_rows) == (whole.rows, whole.labels, whole.of_rows)
    assert quick.decide() == whole.decide()


@pytest.mark.parametrize(("kind", "why"), [("tool", "some rows have tools"), ("completion", "without a question")])
def test_the_reason_is_what_was_found(kind: ExampleKind, why: str) -> None:
    answers = AnswerCounter()
    answers.add("a", kind)
    assert answers.decide().task == "text"
    assert answers.decide().why.endswith(why)
