"""What is known ahead of a measure always holds, and sparing the closer look changes no verdict."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luthier.chat.messages import Message
from luthier.data.cleaning.quality_measures import STOP_WORDS, TextFeatures
from luthier.data.cleaning.quality_rules import RULES
from luthier.data.ops.quality import Quality
from luthier.data.row import Row
from luthier.pii.batch import MOST_CHARS, ConcatenatedTexts

WORDS = [
    *("the", "The", "to", "and", "a", "parcel", "#", "…", "...", "12", "\n", "\n\n", "- x", "• y", "end.", "ß", "ss"),
    *("Straße", "STRASSE", "漢字", "x" * 600, "http://" + "y" * 1100, "and that is what we said"),
]
TEXTS = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=90).map(" ".join),
    st.lists(st.sampled_from(["one", "two", "three", "four", "5"]), min_size=40, max_size=80).map(" ".join),
    st.text(max_size=120),
)
KNOWN_AHEAD = [rule for rules in RULES.values() for rule in rules if rule.ahead is not None]
FEW = settings(max_examples=40, deadline=None)


@FEW
@given(st.lists(TEXTS, min_size=1, max_size=6))
@example(["the and " * 30 + "\n\n" + "x" * 2000, "", "aaaa", "one two three four five " * 9])
def test_a_measure_lies_between_what_is_known_ahead(texts: list[str]) -> None:
    flat = ConcatenatedTexts(texts)
    for rule in KNOWN_AHEAD:
        assert rule.ahead is not None
        least, most = rule.ahead(flat)
        for text, low, high in zip(texts, least.tolist(), most.tolist(), strict=True):
            assert not text or low - 1e-12 <= rule.measure(TextFeatures(text)) <= high + 1e-12, rule.name


@FEW
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_what_breaks_a_rule_is_in_doubt(texts: list[str]) -> None:
    """At the rule's own limits, and at ones that lie on the measure itself."""
    flat = ConcatenatedTexts(texts)
    for rule in KNOWN_AHEAD:
        values = [rule.measure(TextFeatures(text)) for text in texts if text]
        for limited in (rule, *(rule._replace(most=value, least=value, from_words=0) for value in values)):
            for text, doubt in zip(texts, limited.in_doubt(flat).tolist(), strict=True):
                assert doubt or not text or limited.breaks(TextFeatures(text)) is None, rule.name


def test_ordinary_prose_is_cleared_of_every_rule() -> None:
    """Otherwise all would be right, and slow."""
    chance = random.Random(4)
    told = "window bread morning letter harbour quiet under people answer street colour music garden"
    words = [*told.split(), *sorted(STOP_WORDS)]
    texts = [" ".join(chance.choices(words, k=120)) + "." for _ in range(40)]
    flat = ConcatenatedTexts(texts)
    doubts = [rule.in_doubt(flat).mean() for rule in (*RULES["gopher"], *RULES["chat"], *RULES["fineweb"])]
    assert sum(doubts) < 0.5


def _row(n: int, prompt: str, answer: str) -> Row:
    asked = (Message(role="user", content=prompt),) if prompt else ()
    return Row(n, f"{n:016x}", "csv", "f.csv", n, "chat", (*asked, Message(role="assistant", content=answer)))


def _closely(quality: Quality) -> Quality:
    """The same operator without a look ahead."""
    closely = quality.model_copy()
    closely.__dict__["_rules"] = tuple(rule._replace(ahead=None) for rule in quality._rules)
    return closely


@pytest.mark.parametrize("rules", [("gopher",), ("chat",), ("gopher", "c4", "fineweb")])
@pytest.mark.parametrize("action", ["drop", "flag"])
def test_verdicts_are_those_of_a_closer_look(rules: tuple[str, ...], action: str) -> None:
    quality = Quality.model_validate({"rules": rules, "action": action})

    @FEW
    @given(st.lists(st.tuples(TEXTS, TEXTS), max_size=5))
    def check(pairs: list[tuple[str, str]]) -> None:
        rows = [_row(n, prompt, answer) for n, (prompt, answer) in enumerate(pairs)]
        assert quality.apply(rows) == _closely(quality).apply(rows)

    check()


def test_texts_longer_than_a_block_are_judged() -> None:
    quality = Quality(rules="gopher", action="flag")
    texts = ["word " * MOST_CHARS, "x" * MOST_CHARS, "the end of it and that. " * 30]
    rows = [_row(n, "so", text) for n, text in enumerate(texts)]
    found = quality.apply(rows).attributes
    assert found == _closely(quality).apply(rows).attributes
    assert found["words"] == [MOST_CHARS + 1, 2, 181]
