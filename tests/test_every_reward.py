"""What every reward promises: a finite number for each answer, from that answer alone, changed by every setting."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from documented import undescribed
from luthier.chat.judge_prompt import YesNoJudgePrompt
from luthier.chat.messages import Example, Message
from luthier.core.component import components_by_kind
from luthier.tune.reward import Reward, RewardCompletion, RewardContext
from tests.endpoint import Body, serving
from tuning import chat

REWARDS = components_by_kind(Reward)
KINDS = sorted(REWARDS)
USUAL: dict[str, dict[str, Any]] = {
    "regex": {"pattern": "4"}, "length": {"free": 2, "max": 8}, "metric": {"metric": "token_f1"},
}  # fmt: skip
"""What must be given."""
OTHERWISE: dict[tuple[str, str], Any] = {
    ("exact", "rules"): {"rules": "exact"},
    ("numeric", "rules"): {"position": "first"},
    ("json_schema", "obeys"): {"type": "object"},
    ("json_schema", "fenced"): False,
    ("regex", "pattern"): "is",
    ("regex", "where"): "whole",
    ("length", "free"): 4,
    ("length", "max"): 20,
    ("repetition", "n"): 2,
    ("metric", "metric"): "exact_match",
    ("unit_tests", "runner"): {"fenced": False},
    ("language", "languages"): ("de",),
    ("toxicity", "languages"): ("de",),
    ("toxicity", "ignore"): ("shit",),
    ("verdict", "asks"): {"rubric": "Is it kind?"},
}
"""Another value for each field, which must change what some answer is worth."""
ELSEWHERE = {"kind", "weight", "label", "deadline_s", "on_fault"}
"""What every reward has: `tests/tune/rollout/test_reward_failures.py`."""
ANSWERS = [
    ("4", 1, True),
    ("The answer is 4", 5, True),
    ("the   4.", 3, True),
    ("4 plus 5 is 9, as it is", 9, True),
    ('```json\n{"sum": 4}\n```', 12, True),
    ("[4]", 3, True),
    ("", 1, True),
    ("```python\ndef four():\n    return 4\n```", 15, True),
    ("go on and on and on and on and", 16, False),
    ("This is a shit question, and I will not answer it for you today.", 15, True),
    ("Das ist eine wirklich leichte Frage, und die Antwort darauf ist vier.", 16, True),
]
"""Answers to one question, right and wrong, empty and cut off; their tokens, and whether they ended."""


def attempts(reference: str = "4") -> list[RewardCompletion]:
    return [RewardCompletion(chat("What is 2 + 2?", reference), *one) for one in ANSWERS]


class Wordy:
    """A model that likes long answers, and long questions about them."""

    def __call__(
        self, conversations: Sequence[tuple[Message, ...]], tools: Sequence[tuple[dict[str, Any], ...]] | None = None
    ) -> list[float]:
        return [float(len(turns[-1].content)) for turns in conversations]

    def odds(self, conversations: Sequence[tuple[Message, ...]], verdict: YesNoJudgePrompt) -> list[float]:
        asked = len(f"{verdict.rubric}{verdict.yes}{verdict.no}")
        return [(length - asked) / 40 for length in self(conversations)]


@pytest.fixture
def place(tmp_path: Path) -> RewardContext:

    wordy: Any = Wordy()  # it stands in a model's place
    return RewardContext(recipe_dir=tmp_path, kept=tmp_path, models=Path, model=wordy)


def made(kind: str, **fields: Any) -> Reward:
    return REWARDS[kind].model_validate({"kind": kind, **USUAL.get(kind, {}), **fields})


def asked(kind: str) -> list[RewardCompletion]:
    return attempts("assert four() == 4") if kind == "unit_tests" else attempts()


def by_length(body: Body) -> str:
    """A judge who likes long answers."""
    return f'{{"score": {1 + len(body["messages"][-1]["content"]) % 5}}}'


@pytest.fixture
def reward(kind: str) -> Iterator[Reward]:
    """The reward under test; a judge judges at an endpoint of its own here."""
    if kind != "judge":
        yield made(kind)
        return
    with serving(by_length) as server:
        yield made(kind, scorer={"url": server.url})


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_documented(kind: str) -> None:
    reward = REWARDS[kind]
    assert reward.summary()
    assert undescribed(reward) == []


@pytest.mark.parametrize("kind", KINDS)
def test_each_answer_has_a_number_of_its_own(kind: str, reward: Reward, place: RewardContext) -> None:
    given = asked(kind)
    found = reward.score(given, place)
    assert len(found) == len(given)
    assert all(math.isfinite(value) for value in found)
    assert reward.score(given[::-1], place) == found[::-1]
    assert reward.score(given[2:3], place) == found[2:3]
    assert len(set(found)) > 1


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in KINDS for name in REWARDS[kind].model_fields if name not in ELSEWHERE]
)
def test_every_field_changes_something(kind: str, name: str, place: RewardContext) -> None:
    if kind == "judge":
        pytest.skip("its settings are the scorer's, which tests/models/scorers hold to the same promise")
    assert (kind, name) in OTHERWISE, f"add another value of {kind}.{name} to OTHERWISE"
    given = asked(kind)
    other = made(kind, **{name: OTHERWISE[kind, name]})
    assert made(kind).score(given, place) != other.score(given, place)


def test_a_reward_that_holds_against_the_data_says_which_row_has_no_answer(place: RewardContext) -> None:
    whole = chat("a", "b")
    bare: Example = whole.model_copy(update={"messages": whole.messages[:-1], "label": None})
    with pytest.raises(Exception, match=r"tickets.csv:1: the reward numeric holds answers against that of the data"):
        made("numeric").score([RewardCompletion(bare, "4", 1)], place)


def test_errors_are_no_reward() -> None:
    with pytest.raises(ValueError, match="the less wer, the better: give it a weight below zero"):
        made("metric", metric="wer")
    assert made("metric", metric="wer", weight=-1).score(attempts()[:2], None) == [0.0, 3.0]  # type: ignore[arg-type]  # unused
