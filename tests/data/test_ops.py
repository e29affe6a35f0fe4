"""What each operator is for, on small honest texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import ftfy
import polars as pl
import pytest
from ftfy.badness import BADNESS_RE, is_bad
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.cleaning.quality_rules import NAMES, RULES
from luthier.data.cleaning.spans import diff_to_edits
from luthier.data.engine.batch import apply_edits
from luthier.data.ops.label_spelling import LabelSpelling, find_label_typos, find_spelling_variants
from luthier.data.ops.normalize import Normalize, _fixed, _repaired_line, has_mojibake, shorten_ascii_runs
from luthier.data.ops.quality import Quality
from luthier.data.suggest.survey import profile_path
from luthier.lang.detect import identify_languages

Make = Callable[..., Any]
Write = Callable[..., str]


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("schÃ¶ne GrÃ¼ÃŸe", "schöne Grüße"),
        ("a &amp; b &lt;3", "a & b <3"),
        ("one<br>two<br/>three", "one\ntwo\nthree"),
        ("<p>Hello <b>you</b></p>", "Hello you"),
        ("x <script>alert('<b>')</script>y", "x y"),
        ("if a < b and c > d", "if a < b and c > d"),
        ("say <name> and <Order Number>", "say <name> and <Order Number>"),
        ("soft\u00adhyphen and zero\u200bwidth", "softhyphen and zerowidth"),
        ("family \U0001f468\u200d\U0001f469\u200d\U0001f467", "family \U0001f468\u200d\U0001f469\u200d\U0001f467"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("  too   many\u00a0spaces  ", "too many spaces"),
        ("a\n\n\n\nb   \nc", "a\n\nb\nc"),
        ("def f():\n    return 1", "def f():\n    return 1"),
        ("cafe\u0301", "café"),
        ("“quoted” – it’s kept…", "“quoted” – it’s kept…"),
        ("&amp;amp;lt;b&amp;amp;gt;bold", "bold"),
    ],
)
def test_normalize(dirty: str, clean: str) -> None:
    assert Normalize().clean(dirty) == clean


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("<p>So:</p>\n```html\n<p>a &amp; b</p>\n```\n<b>Good</b>", "So:\n\n```html\n<p>a &amp; b</p>\n```\nGood"),
        ("A table begins with `<table>`, <i>not</i> with `<tr>`.", "A table begins with `<table>`, not with `<tr>`."),
        ("```\n<p>never closed", "```\n<p>never closed"),
        ("if (a<b && c>d) or 5 <b and c> 3", "if (a<b && c>d) or 5 <b and c> 3"),
        ("<td nowrap width=5>a</td > <input disabled/><hr /><A HREF=\"x?a=1&b\">b</A><p\nclass = 'c'>c</p>", "a b\nc"),
        ("a  b\n```py\nx = 'a  b'\ty\n\n\nz \n```\nc  d", "a b\n```py\nx = 'a  b'\ty\n\n\nz \n```\nc d"),
        ("`a`  ```b  c```  d", "`a` ```b c``` d"),
        ("a lone ` and <p>then</p>", "a lone ` and\nthen"),
    ],
)
def test_normalize_leaves_code_between_backticks_alone(text: str, clean: str) -> None:
    assert Normalize().clean(text) == clean
    assert Normalize().clean(clean) == clean


def test_normalize_can_leave_html_alone() -> None:
    assert Normalize(html=False).clean("<p>a &amp; b</p>") == "<p>a &amp; b</p>"


@given(st.text(max_size=200))
def test_normalize_repairs_as_ftfy_does(text: str) -> None:
    broken = text.encode().decode("latin-1")
    options = {"uncurl_quotes": False, "fix_latin_ligatures": False, "fix_character_width": False}
    wanted = ftfy.fix_text(broken, unescape_html=False, remove_control_chars=False, **options)
    bare = Normalize(html=False, invisible=False, spaces=False)
    assert bare.clean(broken) in (
        wanted,
        ftfy.fix_text(wanted, unescape_html=False, remove_control_chars=False, **options),
    )


@given(st.lists(st.sampled_from(["a" * 20, "Ã", " ", "â€™", "é", "x1", "Â ", "€", "ß", "“", "°"])).map("".join))
def test_what_ftfy_looks_for_is_seen_without_long_ascii_runs(text: str) -> None:
    assert has_mojibake(shorten_ascii_runs(text)) == is_bad(text)
    assert parser.parse(BADNESS_RE.pattern, BADNESS_RE.flags).getwidth()[1] <= 7


_ODD_PIECES = [
    "a" * 20,
    "word and more words ",
    "schÃ¶n",
    "â€™",
    "Ã ",
    "Ã la",
    "Â£",
    "Ã",
    "é",
    " ",
    "Å’",
    "â€\x9d",
    "ï¿½",
    "\ufffd",
]


@given(st.lists(st.sampled_from(_ODD_PIECES), max_size=12).map("".join))
def test_a_line_is_repaired_by_what_stands_near_its_odd_characters(text: str) -> None:
    assert _repaired_line(text) == _fixed(text)


def test_ascii_around_one_character_alarms_ftfy_for_few_of_them() -> None:
    chars = {chr(code) for code in range(0x80, 0x2700)} | {*"\ufb01\ufb02\ufffd\uf8ff"}
    around = ["", " ", "a", "Z", "0", ".", "\n", "a ", ", "]
    for char in sorted(chars):
        for before in around:
            for after in around:
                text = f"{before}{char}{after}"
                assert has_mojibake(text) == is_bad(text)


@given(st.text("abc \n<é", max_size=300), st.text("abc \n<é", max_size=300))
def test_the_spans_of_a_change_rebuild_it(before: str, after: str) -> None:
    found = diff_to_edits("messages[0].content", before, after, "test")
    assert apply_edits(before, found) == after
    assert all(edit.before != edit.after for edit in found)


def test_small_changes_in_a_long_text_are_small_spans() -> None:
    before = "".join(f"line {n} of a long answer\r\n" for n in range(2000))
    found = diff_to_edits("f", before, before.replace("\r\n", "\n"), "test")
    assert len(found) == 2000
    assert {(edit.before, edit.after) for edit in found} == {("\r", "")}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("I am still waiting for my parcel and nobody answers my messages", "en"),
        ("Ich warte immer noch auf mein Paket und niemand antwortet mir", "de"),
        ("Todavía estoy esperando mi paquete y nadie contesta mis mensajes", "es"),
        ("ok", "und"),
        ("12345 67890 12345 67890 12345", "und"),
    ],
)
def test_language(text: str, code: str) -> None:
    assert identify_languages([text])[0].code == code


def test_languages_that_are_not_wanted_are_dropped(make: Make, write: Write) -> None:
    texts = ["Where is my parcel, I have been waiting", "Wo ist mein Paket, ich warte seit Tagen darauf", "ok"] * 2
    path = write("t.jsonl", [{"text": text, "label": "ab"[n % 2]} for n, text in enumerate(texts)])
    made = make(source={"kind": "jsonl", "path": path}, ops=[{"kind": "language", "keep": ["en"]}], split={"test": 0})
    assert made.summary.dropped == {"language de": 2}
    assert made.attributes("language")["language"].to_list() == ["en", "und"] * 2


@pytest.mark.parametrize(
    ("text", "rules", "broken"),
    [
        ("Where is my order?", "chat", []),
        ("???", "chat", ["no_letters"]),
        ("TODO", "chat", ["placeholder"]),
        ("aaaaaaaaaaaaaaaaaaa", "chat", ["one_char"]),
        ("buy now " * 30, "chat", ["distinct_words"]),
        (
            "A sentence with enough different words to be a real text about many things. " * 10,
            "gopher",
            ["top_4_gram"],
        ),
        ("too short", "gopher", ["words"]),
        ("\n".join(f"- point {n} about topic {n * 7} and {n * 13}" for n in range(20)), "gopher", ["bullets"]),
    ],
)
def test_quality(text: str, rules: Any, broken: list[str]) -> None:
    found = Quality(rules=rules, action="flag").judge(text)
    assert set(broken) <= set(found)
    assert bool(broken) == bool(found)


def test_every_rule_has_a_source_and_can_be_skipped() -> None:
    assert all(rule.source for rules in RULES.values() for rule in rules)
    assert Quality(skip=NAMES).judge("???") == []


def test_short_answers_may_be_signs(make: Make, write: Write) -> None:
    rows = [{"text": f"good or bad, number {n}?", "label": "+-"[n % 2]} for n in range(6)]
    made = make(source={"kind": "jsonl", "path": write("t.jsonl", rows)}, ops=["quality"], split={"test": 0})
    assert made.summary.labels == ["+", "-"]


@pytest.mark.parametrize(
    "classes",
    [
        ("-1", "0", "1", "+1"), ("A", "A-", "A+", "B-"), ("1/2", "1-2", "1.2", "12"), ("1.0", "10"), ("C", "C++", "C#"),
        ("new", "news"), ("good", "goods"), ("iPhone 5", "iPhone 5s"), ("_", "s", "ss"),
    ],
)  # fmt: skip
def test_signs_that_mean_something_keep_classes_apart(classes: tuple[str, ...]) -> None:
    """Of labels -1, 0 and 1, the rarer of -1 and 1 became the other."""
    assert find_spelling_variants(Counter({label: 5 + n for n, label in enumerate(classes)})) == {}


def test_spellings_of_a_class() -> None:
    counts = Counter({"refund": 9, "Refund": 2, "refunds ": 1, "card_lost": 4, "card-lost": 4, "boss": 3, "bos": 1})
    assert find_spelling_variants(counts) == {"Refund": "refund", "refunds ": "refund", "card_lost": "card-lost"}


def test_label_spelling_edits_and_says(make: Make, write: Write) -> None:
    labels = ["refund"] * 4 + ["Refund ", "refunds"] + ["delivery"] * 4
    rows = [{"text": f"question {n}", "label": label} for n, label in enumerate(labels)]
    made = make(source={"kind": "jsonl", "path": write("t.jsonl", rows)}, ops=["label_spelling"], split={"test": 0})
    assert made.summary.labels == ["delivery", "refund"]
    assert made.summary.edited == {"label_spelling": 2}
    shown = made.events.filter(pl.col("operator") == "label_spelling").select("before", "after").rows()
    assert shown == [("Refund ", "refund"), ("refunds", "refund")]  # whole labels, for the report and `lineage`
    assert "'refunds' is written 'refund'" in made.notes
    free = [
        {"prompt": f"q{n}", "completion": f"A long answer, and so no class. {'And more. ' * 9}{n}"} for n in range(4)
    ]
    left = make(source={"kind": "jsonl", "path": write("f.jsonl", free)}, ops=["label_spelling"], split={"test": 0})
    assert left.summary.edited == {}
    assert "not classes" in left.notes


def test_a_slip_may_differ_in_its_dress_too() -> None:
    counts = Counter({"billing": 60, "Biling": 1, "card_lost": 50, "Card losst": 1, "boss": 40, "Bos": 1})
    assert find_label_typos(counts) == {"Biling": "billing", "Card losst": "card_lost"}


def test_a_slip_of_the_pen_is_proposed_and_only_then_written_otherwise(
    make: Make, write: Write, tmp_path: Path
) -> None:
    labels = ["billing"] * 60 + ["biling"] + ["Biling"] + ["delivery"] * 60
    rows = [{"text": f"question number {n}", "label": label} for n, label in enumerate(labels)]
    source = {"kind": "jsonl", "path": write("t.jsonl", rows)}
    plain = make(source=source, ops=["label_spelling"], split={"test": 0})
    assert sorted(label.lower() for label in plain.summary.labels) == ["biling", "billing", "delivery"]
    also = {"kind": "label_spelling", "also": {"biling": "Billing", "Biling": "billing"}}
    told = make(source=source, ops=[also], split={"test": 0})
    assert told.summary.labels == ["billing", "delivery"]
    assert told.summary.edited == {"label_spelling": 2}
    table = "text,label\n" + "".join(f"{row['text']},{row['label'].lower()}\n" for row in [*rows, *rows])
    asked = LabelSpelling.suggest(profile_path(tmp_path / write("u.csv", table)))
    assert asked is not None
    assert asked.settings == {"also": {"biling": "billing"}}


def test_a_slip_is_rare_beside_all_spellings_of_what_was_meant(write: Write, tmp_path: Path) -> None:
    labels = ["Billing"] * 73 + ["billing "] * 9 + ["Biling"] * 4 + ["Delivery"] * 74
    table = "text,label\n" + "".join(f"question {n},{label}\n" for n, label in enumerate(labels))
    asked = LabelSpelling.suggest(profile_path(tmp_path / write("v.csv", table)))
    assert asked is not None
    assert asked.settings == {"also": {"Biling": "Billing"}}
    assert "'Biling' as 'Billing'" in asked.why


def test_conflicting_answers_are_flagged_or_dropped(make: Make, write: Write) -> None:
    rows = [("Where?", "a"), ("where? ", "b"), ("Where?", "a"), ("Why?", "b"), ("How?", "a")]
    path = write("t.jsonl", [{"text": text, "label": label} for text, label in rows])
    source = {"kind": "jsonl", "path": path}
    kept = make(source=source, ops=["exact_dedup"], split={"test": 0}, task="label")
    assert kept.summary.dropped == {"exact duplicate": 1}
    assert kept.attributes("exact_dedup")["conflict"].to_list() == [True, True, False, False]
    assert "3 rows share a prompt" in kept.notes
    dropped = make(source=source, ops=[{"kind": "exact_dedup", "conflict": "drop"}], split={"test": 0}, task="label")
    assert dropped.summary.dropped == {"conflicting answers": 3}
    one = make(source=source, ops=[{"kind": "exact_dedup", "of": "prompt"}], split={"test": 0}, task="label")
    assert one.summary.dropped == {"exact duplicate": 2}
