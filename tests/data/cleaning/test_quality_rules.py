"""Rules measure what the papers say, and what they cost does not change what they find."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.chat.messages import Message
from luthier.data.cleaning.quality_measures import TextFeatures, is_c4_line_kept
from luthier.data.cleaning.quality_rules import NAMES, RULES, QualityRule
from luthier.data.ops.quality import Quality
from luthier.data.row import Row

WORDS = ["the", "to", "a", "parcel", "#", "…", "12", "\n", "\n\n", "- x", "end.", "ß"]
TEXTS = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=90).map(" ".join),
    st.text(max_size=120),
)  # fmt: skip
BY_NAME = {rule.name: rule for rules in RULES.values() for rule in rules}
PROSE = (
    "We opened the shop with a small team and that has been the best decision of our lives so far. "
    "People come to sit by the window, read, talk to each other and drink what we brew with care. "
    "On Sundays children have their own table, where paper, pencils and cake wait for them until evening."
)


def _value(name: str, text: str) -> float:
    return BY_NAME[name].measure(TextFeatures(text))


def _grams(text: str, size: int) -> list[str]:
    words = text.split()
    return [" ".join(words[at : at + size]) for at in range(len(words) - size + 1)]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_most_frequent_run_of_words(size: int) -> None:
    @given(TEXTS)
    def check(text: str) -> None:
        counts = Counter(_grams(text, size))
        most = max(counts.values(), default=0)
        longest = max((len(gram) for gram, count in counts.items() if count == most), default=0)
        wanted = longest * most / len(text) if most > 1 else 0
        assert _value(f"top_{size}_gram", text) == pytest.approx(wanted)

    check()


@pytest.mark.parametrize("size", range(5, 11))
def test_repeated_runs_count_no_character_twice(size: int) -> None:
    @given(TEXTS)
    def check(text: str) -> None:
        words, seen, chars, at = text.split(), set(), 0, 0
        while at + size <= len(words):
            run = tuple(words[at : at + size])
            if run in seen:
                chars += len("".join(run))
                at += size
            else:
                seen.add(run)
                at += 1
        assert _value(f"repeated_{size}_grams", text) == pytest.approx(chars / len(text) if chars else 0)

    check()


@given(TEXTS)
def test_quick_measures_are_the_plain_ones(text: str) -> None:
    words = text.split()
    bare = "".join(words)
    assert _value("one_char", text) == pytest.approx(max(Counter(bare).values(), default=0) / max(1, len(bare)))
    with_letters = sum(any(char.isalpha() for char in word) for word in words)
    assert _value("alphabetic", text) == pytest.approx(with_letters / len(words) if words else 1)
    assert _value("mean_word", text) == pytest.approx(sum(map(len, words)) / max(1, len(words)))
    assert _value("distinct_words", text) == pytest.approx(len({w.casefold() for w in words}) / max(1, len(words)))
    lines = [line for line in text.split("\n") if line.strip()]
    assert _value("repeated_lines", text) == pytest.approx((len(lines) - len(set(lines))) / max(1, len(lines)))


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("words", 50, 100_000),
        ("mean_word", 3, 10),
        ("hashes", 0, 0.1),
        ("bullets", 0, 0.9),
        ("ellipsis_lines", 0, 0.3),
        ("alphabetic", 0.8, 1),
        ("repeated_lines", 0, 0.3),
        ("repeated_paragraph_chars", 0, 0.2),
        ("top_4_gram", 0, 0.16),
        ("repeated_10_grams", 0, 0.1),
        ("duplicate_line_chars", -1, 0.1),
        ("short_lines", -1, 0.67),
    ],
)
def test_limits_are_the_published_ones(name: str, least: float, most: float) -> None:
    assert (BY_NAME[name].least, BY_NAME[name].most) == (least, most)


@pytest.mark.parametrize(
    ("rules", "text", "broken"),
    [
        ("gopher", PROSE, []),
        ("c4", PROSE, []),
        ("fineweb", PROSE, []),
        ("gopher", PROSE.replace(" ", " # "), ["hashes"]),
        ("gopher", "\n".join(["so it goes…"] * 3 + [PROSE] * 3), ["ellipsis_lines", "repeated_lines"]),
        ("c4", "A page. With short lines.\nMenu\nHome", ["sentences"]),
        ("c4", f"{PROSE}\nfunction() {{ return 1 }}", ["curly_bracket"]),
        ("c4", f"{PROSE}\nLorem ipsum dolor", ["lorem_ipsum"]),
        ("fineweb", "\n".join(f"Menu entry number {n} of this page" for n in range(9)), ["punctuated_lines"]),
        ("fineweb", "\n".join([PROSE, *["Home.", "News.", "About.", "Shop."]]), ["short_lines"]),
        ("fineweb", f"{PROSE}\n{PROSE}", ["duplicate_line_chars"]),
    ],
)
def test_each_set_finds_its_own(rules: str, text: str, broken: list[str]) -> None:
    found = Quality.model_validate({"rules": rules, "action": "flag"}).judge(text)
    assert set(broken) <= set(found)
    assert bool(broken) == bool(found)


def test_at_a_limit_gopher_keeps_and_fineweb_drops() -> None:
    ten = TextFeatures("\n".join(["short enough line number one!"] * 1 + ["x" * 40 + "."] * 2))
    at_limit = QualityRule("r", lambda text: 0.5, 0, 0.5, "a paper")
    assert at_limit.breaks(ten) is None
    assert at_limit._replace(open=True).breaks(ten) == 0.5
    assert at_limit._replace(open=True).says(0.5) == "0.5, expected under 0.5 (a paper)"
    assert at_limit.says(0.75) == "0.75, expected at most 0.5 (a paper)"


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("今日は天気がいいので公園に行きました。花がたくさん咲いていて、鳥も鳴いていました。" * 30, []),
        ("今天我们一起去公园散步看到了很多花和树木还有小鸟在唱歌" * 45, []),
        ("วันนี้อากาศดีมากเราไปเดินเล่นที่สวนสาธารณะ" * 40, []),
        ("図を見る：" + "QUJD" * 400, ["longest_word"]),
        ("а" * 500 + "б" * 501, ["longest_word"]),
    ],
)
def test_a_text_without_spaces_is_no_long_word(text: str, broken: list[str]) -> None:
    """Japanese, Chinese and Thai texts of more than a thousand characters were dropped as code or data."""
    assert Quality(action="flag").judge(text) == broken


def test_lines_that_c4_keeps() -> None:
    assert is_c4_line_kept("This line says enough to be kept.")
    assert not is_c4_line_kept("This line says enough but trails off...")
    assert not is_c4_line_kept("This line has no end mark")
    assert not is_c4_line_kept("Too short, this.")
    assert not is_c4_line_kept("Please enable JavaScript to see this page.")
    assert not is_c4_line_kept("We are glad that this site uses cookies.")
    assert not is_c4_line_kept(f"A word {'x' * 1001} of far too many letters.")


def _row(prompt: str, answer: str) -> Row:
    messages = (Message(role="user", content=prompt), Message(role="assistant", content=answer))
    return Row(0, "0" * 16, "csv", "f.csv", 2, "chat", messages)


def test_a_drop_names_the_rule_the_value_and_the_source() -> None:
    outcome = Quality(rules=("gopher", "fineweb")).apply([_row("too short", "yes")])
    assert outcome.drops[0].reason == "quality words: 2, expected at least 50 (Gopher, appendix A1.1)"
    assert outcome.attributes["words"] == [3]


def test_limits_can_be_set() -> None:
    loose = Quality(rules="gopher", limits={"words": (1, None)}, skip=("stop_words",))
    assert loose.judge("Only a few decent words") == []
    tight = Quality(limits={"symbols": (None, 0.1)}).apply([_row("so # many # signs # here # and # there #", "a")])
    assert "your limits" in tight.drops[0].reason
    for wrong in ({"limits": {"wrods": (1, 2)}}, {"skip": ("wrods",)}):
        with pytest.raises(ValidationError, match="rule 'wrods' is unknown; did you mean 'words'"):
            Quality.model_validate(wrong)


def test_hash_signs_that_mark_a_word_say_something() -> None:
    """Speakers without a name, tags and numbers; only what says nothing is counted."""
    said = ["#Person1#: When? #Person2#: At two. #Person1#: Good. #Person2#: Bye, then.", "late again " + "#late " * 9]
    outcome = Quality().apply([*(_row(text, "a") for text in said), _row("so # many # signs # " * 3 + "# # #", "a")])
    assert list(outcome.drops) == [2]


def test_names_are_unique_within_a_set() -> None:
    assert all(len({rule.name for rule in rules}) == len(rules) for rules in RULES.values())
    assert len(set(NAMES)) == len(NAMES)
