"""Every labelling function keeps its role's promises: pure, blind to neighbours, quick on hostile texts, documented."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from documented import undescribed
from luthier.chat.messages import Message
from luthier.core.component import components_by_kind
from luthier.data.label_function import LabelFunction
from luthier.data.row import Row
from tests.linear import assert_quick

KINDS = sorted(components_by_kind(LabelFunction))
METAS = (
    {},
    {"label": "a", "proposal": {"label": "a", "confidence": 0.9}},
    {"label": 3, "proposal": {"label": "b", "confidence": None}, "judgments": [{"annotator": "x", "label": "b"}]},
    {"label": {"odd": []}, "proposal": "odd", "judgments": "odd"},
)
ROWS = st.lists(
    st.tuples(st.text(max_size=40) | st.sampled_from(["Refund, please?", "yes"]), st.sampled_from(METAS)), max_size=6
)
HOSTILE = ("a" * 200_000, "a b " * 50_000, "!" * 100_000 + "?", "(" * 50_000, "\n" * 100_000)


def _row(n: int, text: str, meta: dict[str, object]) -> Row:
    turns = (Message(role="user", content=text), Message(role="assistant", content="x"))
    return Row(n, f"{n:016x}", "csv", "f.csv", n, "chat", turns, (), meta)


@pytest.fixture(params=KINDS)
def function(request: pytest.FixtureRequest) -> LabelFunction:
    """A function that has something to look for."""
    more = {
        "keywords": {"label": "refund", "words": ["refund", "money back", "a b a"], "unless": ["no refund"]},
        "regex": {"label": "refund", "pattern": r"(a+)+$|(?i)refund"},
        "lexicon": {"words": {"refund": ["refund", "a a"], "thanks": ["thank you", "b"]}},
    }
    return components_by_kind(LabelFunction)[request.param].model_validate(more.get(request.param, {}))


def test_it_is_documented_and_its_settings_come_back(function: LabelFunction) -> None:
    member = type(function)
    assert member.summary()
    assert undescribed(member) == []
    assert LabelFunction.parse(function.settings()) == function
    assert member.model_validate({}).vote([_row(0, "a text", {})]) in ([None], ["yes"])


@pytest.mark.matrix("[!j]*")  # `judged` generates for each row; tests/data/annotation has its votes
def test_a_vote_is_pure_and_does_not_depend_on_neighbours(function: LabelFunction) -> None:
    @settings(max_examples=60, deadline=None)
    @given(ROWS)
    def check(told: list[tuple[str, dict[str, object]]]) -> None:
        rows = [_row(n, text, meta) for n, (text, meta) in enumerate(told)]
        before = copy.deepcopy(rows)
        votes = function.vote(rows)
        assert votes == [vote for row in rows for vote in function.vote([row])]
        assert len(votes) == len(rows)
        assert all(vote is None or isinstance(vote, str) for vote in votes)
        assert rows == before

    check()


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:3].strip() or "blank")
def test_hostile_texts_take_no_longer_than_their_length(function: LabelFunction, text: str) -> None:
    assert_quick(lambda: function.vote([_row(0, text, {})]), 1.5)
