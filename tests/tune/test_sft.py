"""Which turns are learnt, and how much each row counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from luthier.chat.messages import Example, Message
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.errors import DataError
from luthier.tune.objectives.sft import Sft
from tiny_models import tiny_tokenizer
from tuning import chat


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    folder: Path = tmp_path_factory.mktemp("text")
    tiny_tokenizer(folder)
    return ChatTokenizer.load(folder)


def talk(*turns: dict[str, Any], meta: dict[str, Any] | None = None) -> Example:
    """A question before each given assistant turn."""
    messages = [one for turn in turns for one in (Message(role="user", content="q"), Message(role="assistant", **turn))]
    return chat("x", "y").model_copy(update={"messages": tuple(messages), "meta": meta or {}})


def learnt(objective: Sft, example: Example, text: ChatTokenizer) -> str:
    """The text that an objective learns of an example, or why there is none."""
    (features,) = objective.build_training_examples([example], text)
    return "|".join(text.decode([row.ids[at] for at in row.targets]) for row in features.rows) or features.nothing


TURNS = ({"content": "one", "tag": "gold"}, {"content": "two", "name": "anna"}, {"content": "three", "tag": "golden"})


@pytest.mark.parametrize(
    ("learn", "wanted"),
    [
        ("last", "three"), ("all", "one two three"), ({"tag": "gold"}, "one"), ({"tag": "gold*"}, "one three"),
        ({"name": "an?a"}, "two"),
    ],
)  # fmt: skip
def test_turns_are_chosen(learn: Any, wanted: str, text: ChatTokenizer) -> None:
    told = "".join(f"{word}<|im_end|>" for word in wanted.split())
    assert learnt(Sft(train_on=learn), talk(*TURNS), text) == told


def test_no_turn_chosen_is_said(text: ChatTokenizer) -> None:
    assert learnt(Sft(train_on={"tag": "silver"}), talk(*TURNS), text) == "no turn that is to be learnt"


def test_a_choice_of_turns_says_something() -> None:
    with pytest.raises(ValidationError, match="expected a `tag`, a `name`, or both"):
        Sft(train_on={})


def test_turns_that_the_data_marks_are_never_learnt(text: ChatTokenizer) -> None:
    marked = talk({"content": "one"}, {"content": "two", "learn": False}, {"content": "three"})
    assert learnt(Sft(train_on="all"), marked, text) == "one<|im_end|>three<|im_end|>"
    last = talk({"content": "one"}, {"content": "two", "learn": False})
    assert learnt(Sft(), last, text) == "no turn that is to be learnt"


def test_an_answer_that_nobody_wants_is_not_learnt(text: ChatTokenizer) -> None:
    assert learnt(Sft(), talk({"content": "no"}, meta={"label": False}), text).startswith("its label is false")
    assert learnt(Sft(), talk({"content": "yes"}, meta={"label": True}), text) == "yes<|im_end|>"
    assert learnt(Sft(), talk({"content": "yes"}, meta={"label": "false"}), text) == "yes<|im_end|>", "a class of a CSV"


@pytest.mark.parametrize("average", ["token", "row"])
def test_rows_weigh_what_their_column_says(average: Any, text: ChatTokenizer) -> None:
    objective = Sft(weight="worth", average=average)
    given = [talk({"content": "yes"}, meta={"worth": worth}) for worth in (0.5, "2", 1)]
    rows = [row for features in objective.build_training_examples(given, text) for row in features.rows]
    plain = [row for features in Sft(average=average).build_training_examples(given, text) for row in features.rows]
    assert [sum(row.loss_weights) / sum(other.loss_weights) for row, other in zip(rows, plain, strict=True)] == [
        0.5,
        2,
        1,
    ]


def test_a_row_that_weighs_nothing_is_not_learnt(text: ChatTokenizer) -> None:
    assert learnt(Sft(weight="worth"), talk({"content": "yes"}, meta={"worth": 0}), text) == "its worth is 0"


@pytest.mark.parametrize("worth", [-1, math.nan, "much", None, True, math.inf])
def test_a_weight_that_is_no_weight_is_refused_with_its_line(worth: Any, text: ChatTokenizer) -> None:
    with pytest.raises(DataError, match=r"tickets\.csv:1.*expected a weight of 0 or more"):
        Sft(weight="worth").build_training_examples([talk({"content": "yes"}, meta={"worth": worth})], text)


def test_a_missing_weight_is_refused_with_the_nearest_name(text: ChatTokenizer) -> None:
    with pytest.raises(DataError, match=r"no 'worth'(.|\n)*did you mean 'wort'"):
        Sft(weight="worth").build_training_examples([talk({"content": "yes"}, meta={"wort": 1})], text)
