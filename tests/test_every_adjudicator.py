"""Every adjudicator keeps an adjudicator's promises: whole, order-free, agreed votes stand, and reasons are given."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from documented import undescribed
from luthier.artifacts.annotation import Annotation
from luthier.core.component import components_by_kind
from luthier.data.adjudicator import AdjudicationResult, Adjudicator

KINDS = sorted(components_by_kind(Adjudicator))
VOTES = st.lists(
    st.dictionaries(st.sampled_from("vwxyz"), st.sampled_from(["a", "b", "c"]), max_size=5), min_size=1, max_size=12
)


def _items(votes: list[dict[str, str]]) -> list[list[Annotation]]:
    return [[Annotation(who, label) for who, label in one.items()] for one in votes]


def _close(one: AdjudicationResult, two: AdjudicationResult) -> bool:
    pairs = zip(one.decisions, two.decisions, strict=True)
    return all(
        a.label == b.label and (a.confidence or 0) == pytest.approx(b.confidence or 0, abs=1e-4) for a, b in pairs
    )


@pytest.fixture(params=KINDS)
def rule(request: pytest.FixtureRequest) -> Adjudicator:
    return components_by_kind(Adjudicator)[request.param].model_validate({})


def test_it_is_documented_and_its_settings_come_back(rule: Adjudicator) -> None:
    member = type(rule)
    assert member.summary()
    assert undescribed(member) == []
    assert Adjudicator.parse(rule.settings()) == rule


@pytest.mark.matrix("[!l]*")  # tests/data/annotation has the model of labels
def test_every_item_has_a_decision_or_a_reason(rule: Adjudicator) -> None:
    @settings(max_examples=60, deadline=None)
    @given(VOTES)
    def check(votes: list[dict[str, str]]) -> None:
        found = rule.decide(_items(votes))
        assert len(found.decisions) == len(votes)
        for one, decision in zip(votes, found.decisions, strict=True):
            if decision.label is None:
                assert decision.why
            else:
                assert decision.label in {"a", "b", "c"}
                assert 0 <= (decision.confidence or 0) <= 1
            assert one or decision == (None, None, "no judgment")
        assert all(0 <= share <= 1 for share in found.quality.values())

    check()


def test_order_does_not_count(rule: Adjudicator) -> None:
    @settings(max_examples=40, deadline=None)
    @given(VOTES, st.randoms(use_true_random=False))
    def check(votes: list[dict[str, str]], random: object) -> None:
        items = _items(votes)
        turned = [list(reversed(one)) for one in reversed(items)]
        found, other = rule.decide(items), rule.decide(turned)
        assert _close(found, AdjudicationResult(other.decisions[::-1]))

    check()


def test_what_all_say_stands(rule: Adjudicator) -> None:
    votes = [dict.fromkeys("xyz", label) for label in "abcabcabc"]
    assert [one.label for one in rule.decide(_items(votes)).decisions] == list("abcabcabc")


def test_nothing_to_decide(rule: Adjudicator) -> None:
    assert rule.decide([]).decisions == []
    assert [one.why for one in rule.decide([[], []]).decisions] == ["no judgment"] * 2
