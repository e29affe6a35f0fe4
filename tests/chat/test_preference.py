"""Two answers to one prompt, and a yes or no to one answer, in the shapes that people's data has."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.chat.messages import Example, ExampleOrigin, Message
from luthier.chat.preference import (
    PreferencePair,
    column_number_of,
    desirable_label_of,
    is_pair,
    pair_of,
    parse_answer_turns,
    parse_hh_transcript,
    strip_prompt_from_rejected,
)

HH = "\n\nHuman: What are pens?\n\nAssistant: Things.\n\nAnd more:\n\nHuman: Which?\n\nAssistant: Blue ones."


def example(meta: dict[str, Any], *said: str) -> Example:
    turns = [Message(role="user" if at % 2 == 0 else "assistant", content=one) for at, one in enumerate(said)]
    origin = ExampleOrigin(source="jsonl", file="pairs.jsonl", line=1)
    return Example(id="1", origin=origin, kind="preference", messages=tuple(turns), meta=meta)


def test_a_transcript_becomes_turns() -> None:
    turns = parse_hh_transcript(HH)
    assert turns is not None
    assert [turn.role for turn in turns] == ["user", "assistant", "user", "assistant"]
    assert turns[1].content == "Things.\n\nAnd more:"
    assert turns[-1].content == "Blue ones."


@pytest.mark.parametrize("text", ["", "Blue.", "He said: Human: no", "Blue.\n\nHuman: why?", "Assistant"])
def test_other_text_is_no_transcript(text: str) -> None:
    assert parse_hh_transcript(text) is None


def test_a_pair_of_transcripts_has_one_prompt() -> None:
    turns = parse_hh_transcript(HH)
    assert turns is not None
    one = example({"rejected": HH.replace("Blue ones.", "Go away.")}, *(turn.content for turn in turns))
    pair = pair_of(one)
    assert isinstance(pair, PreferencePair)
    assert (pair.prompt, pair.chosen.content, pair.rejected.content) == (turns[:3], "Blue ones.", "Go away.")


@pytest.mark.parametrize("column", ["rejected", "non_preferred_output"])
@pytest.mark.parametrize(
    "rejected",
    [
        "no",
        [{"role": "assistant", "content": "no"}],
        [{"from": "human", "value": "Is it?"}, {"from": "gpt", "value": "no"}],
        {"messages": [{"role": "user", "content": "Is it? "}, {"role": "assistant", "content": "no"}]},
    ],
)
def test_the_other_answer_comes_in_many_shapes(column: str, rejected: Any) -> None:
    pair = pair_of(example({column: rejected}, "Is it?", "yes"))
    assert isinstance(pair, PreferencePair)
    assert pair.rejected.content == "no"


@pytest.mark.parametrize(
    ("meta", "said", "why"),
    [
        ({}, ("Is it?", "yes"), "it has one answer, and none that was not preferred"),
        ({"rejected": None}, ("Is it?", "yes"), "it has one answer, and none that was not preferred"),
        ({"rejected": "no"}, ("Is it?",), "it has no preferred answer"),
        ({"rejected": "yes"}, ("Is it?", "yes\n"), "a tie: both answers are the same"),
        ({"rejected": ""}, ("Is it?", "yes"), "its 'rejected' is empty"),
        ({"rejected": []}, ("Is it?", "yes"), "its 'rejected' is neither text nor a conversation"),
        ({"rejected": [{"role": "user", "content": "no"}]}, ("Is it?", "yes"), "its 'rejected' is neither text"),
        ({"rejected": HH}, ("Is it?", "yes"), "its two answers follow different conversations"),
    ],
)
def test_what_is_no_pair_says_why(meta: dict[str, Any], said: tuple[str, ...], why: str) -> None:
    found = pair_of(example(meta, *said))
    assert isinstance(found, str)
    assert found.startswith(why)
    assert is_pair(example(meta, *said)) == bool(meta.get("rejected") is not None)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(True, True), (0, False), ("UP ", True), ("down", False), (-1, False), (None, None), ("maybe", None), ([], None)],
)
def test_a_yes_or_no(value: Any, wanted: bool | None) -> None:
    assert desirable_label_of(example({"label": value}, "Is it?", "yes")) is wanted


@pytest.mark.parametrize(("value", "margin"), [(2, 2.0), ("0.5", 0.5), (True, None), ("much", None), (None, None)])
def test_a_margin(value: Any, margin: float | None) -> None:
    assert column_number_of(example({"margin": value}, "Is it?", "yes"), "margin") == margin


def test_nothing_else_is_a_conversation() -> None:
    assert parse_answer_turns(3) is None
    assert parse_answer_turns([3]) is None
    assert parse_answer_turns([{"role": "narrator", "content": "x"}]) is None


def test_the_other_side_of_a_pair_is_kept_as_its_answer_alone() -> None:
    turns = parse_hh_transcript(HH)
    assert turns is not None
    other = HH.replace("Blue ones.", "Go away.")
    assert strip_prompt_from_rejected(turns, {"rejected": other, "more": 1}) == {"rejected": "Go away.", "more": 1}
    for meta in ({"rejected": "no"}, {"rejected": "\n\nHuman: Why?\n\nAssistant: So."}, {"rejected": None}, {}):
        assert strip_prompt_from_rejected(turns, meta) == meta
