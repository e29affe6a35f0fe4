"""The operator: actions, columns, counts, the last look, and what it measures."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import ValidationError

from luthier.chat.messages import Message, ToolCall
from luthier.core.errors import DataError
from luthier.data.engine.batch import NamedOperator, apply_operator_result
from luthier.data.operator import Operator, OperatorResult, Reads, RowOperator, TextEdit
from luthier.data.ops.pii import Pii
from luthier.data.row import Batch, Row
from luthier.pii.detect import find_pii
from luthier.pii.recognizer import Recognizer
from luthier.pii.span import PiiKind, PiiSpan
from tests.pii.test_patterns import HERE

Make = Callable[..., Any]
Write = Callable[..., str]
CARD = "4111 1111 1111 1111"


class FakeNames(Recognizer):
    """Knows two people."""

    kind: Literal["fake_names"] = "fake_names"
    finds: ClassVar[tuple[PiiKind, ...]] = ("person",)

    def recognise(self, texts: Sequence[str]) -> list[list[PiiSpan]]:
        return [
            [
                PiiSpan(at, at + len(name), "person", name)
                for name in ("Ann Lee", "Bo Ek")
                if (at := text.find(name)) >= 0
            ]
            for text in texts
        ]


class Leak(RowOperator):
    """Writes a card into each answer, as a bad augmentation could."""

    kind: Literal["leak_for_tests"] = "leak_for_tests"
    reads: ClassVar[tuple[Reads, ...]] = ("answer",)
    idempotent: ClassVar[bool] = False

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        field = "messages[1].content"
        return OperatorResult(
            edits={place: [TextEdit(field, 0, 0, "", f"{CARD} ", "made")] for place in range(len(rows)) if place == 2}
        )


def _row(prompt: str, answer: str = "ok", **meta: Any) -> Row:
    messages = (Message(role="user", content=prompt), Message(role="assistant", content=answer))
    return Row(0, "0" * 16, "csv", "f.csv", 2, "chat", messages, (), meta)


_WORDS = (
    "ssn",
    "SSN",
    "social",
    "tax",
    "id",
    "passport",
    "ИНН",
    "паспорт",
    "身份证",
    "号码",
    "رقم",
    "आधार",
    "is",
    "card",
)
_DIGITS = ("0123456789", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗")
_BETWEEN = (" ", " ", "-", ": ", ", ", "\n", "", "\u200b", "、", "：", "(", ")", "#", "_", "x", "A")


def _mixed(chance: random.Random) -> str:
    """Words and numbers of several scripts."""
    parts: list[str] = []
    for _ in range(chance.randint(2, 14)):
        digits = chance.choice((_DIGITS[0], chance.choice(_DIGITS)))
        number = "".join(chance.choices(digits, k=chance.choice((3, 4, 5, 7, 9, 9, 11, 13, 16))))
        parts += (chance.choice((chance.choice(_WORDS), number)), chance.choice(_BETWEEN))
    return "".join(parts)


def _done(row: Row, **settings: Any) -> Row:
    operator = Operator.parse({"kind": "pii", **settings})
    assert isinstance(operator, Pii)
    return apply_operator_result(Batch([row]), NamedOperator("pii", operator), operator.apply([row]), [])[0].rows[0]


def test_columns_are_read_with_their_names_and_nested() -> None:
    meta = {
        "phone": "4155550143",
        "contactPhone": "4155550143",
        "order_id": "4155550143",
        "card": 4111111111111111,
        "notes": [{"by": "a@b.example"}],
    }
    done = _done(_row("hello", **meta))
    assert done.meta == {
        "phone": "[PHONE]",
        "contactPhone": "[PHONE]",
        "order_id": "4155550143",
        "card": "[CARD]",
        "notes": [{"by": "[EMAIL]"}],
    }
    assert _done(_row("hello", **meta), columns=False, final_check=False).meta == meta


def test_thoughts_and_calls_are_read() -> None:
    told = {"to": "a@b.example", "copies": ["c@d.example"], "phone_number": "5551234567", "order": 5551234567}
    call = ToolCall(name="send", arguments=told)
    turn = Message(role="assistant", content="done", thinking="mail a@b.example", tool_calls=(call,))
    row = Row(0, "0" * 16, "csv", "f.csv", 2, "chat", (Message(role="user", content="go"), turn))
    done = _done(row).messages[1]
    assert done.thinking == "mail [EMAIL]"
    masked = {"to": "[EMAIL]", "copies": ["[EMAIL]"], "phone_number": "[PHONE]"}
    assert done.tool_calls[0].arguments == told | masked, "what the tool calls them says what they are"


@pytest.mark.parametrize("action", ["redact", "mask", "hash", "pseudonymise"])
def test_what_stands_in_for_a_find_is_no_find_of_the_last_look(action: str) -> None:
    operator = Operator.parse({"kind": "pii", "action": action})
    for kind, text, _ in HERE:
        done = _done(_row(f"see {text}, {text}; or {text}"), action=action)
        assert operator.leftover([done]) is None, (kind, done.prompt)


def test_a_token_in_an_address_goes_whole_and_alone() -> None:
    token = "a1b2" * 200
    done = _done(_row(f"open https://x.example/a?token={token}, or (https://x.example/b?key={token[:9]}). Thanks"))
    assert (
        done.prompt == "open https://x.example/a?token=[URL_SECRET], or (https://x.example/b?key=[URL_SECRET]). Thanks"
    )


_NAMING = (" ", ", ", "&token=", "?key=", " password: ", " secret=", "@", "|", "=", "://", "(", "\n")


@pytest.mark.matrix("pseudonymise", "mask")
@pytest.mark.parametrize("action", ["redact", "mask", "hash", "pseudonymise"])
def test_what_stands_in_for_finds_that_name_each_other_is_none_either(action: str) -> None:
    operator = Operator.parse({"kind": "pii", "action": action})
    texts = [text for _, text, _ in HERE]
    chance = random.Random(1)
    for _ in range(400):
        prompt = "".join(part for _ in range(4) for part in (chance.choice(texts), chance.choice(_NAMING)))
        done = _done(_row(prompt, api_key=prompt[-30:]), action=action)
        assert operator.leftover([done]) is None, (prompt, done)


def test_an_address_with_a_token_that_a_word_names_goes_whole() -> None:
    link = "https://app2.shop.example/reset?token=abc123def"
    done = _done(_row(f"token: {link}", reset_token=link))
    assert done.prompt == "token: [SECRET][URL_SECRET]"
    assert done.meta == {"reset_token": "[SECRET][URL_SECRET]"}


def test_each_kind_has_its_action() -> None:
    text = f"a@b.example {CARD} 8.8.8.8"
    done = _done(_row(text), actions={"email": "hash", "card": "mask", "ip": "keep"}).prompt
    assert done.startswith("[EMAIL:")
    assert done.endswith("] **** **** **** 1111 8.8.8.8")


def test_pseudonyms_hold_through_a_conversation_or_the_corpus() -> None:
    def names(consistent: str) -> list[tuple[str, ...]]:
        rows = [_row("Ann Lee here, and Bo Ek", "Hello Ann Lee!") for _ in range(2)]
        rows[1] = Row(1, "1" * 16, "csv", "f.csv", 3, "chat", rows[1].messages)
        settings = {"ner": FakeNames(), "actions": {"person": "pseudonymise"}, "consistent": consistent}
        return [tuple(turn.content for turn in _done(row, **settings).messages) for row in rows]

    for first, second in (names("conversation"), names("corpus")):
        for prompt, answer in (first, second):
            assert "Ann Lee" not in prompt + answer
            assert answer.removeprefix("Hello ").removesuffix("!") in prompt
    assert len(set(names("corpus"))) == 1
    assert len(set(names("conversation"))) == 2


@pytest.mark.parametrize("settings", [{"kinds": ["person"]}, {"actions": {"organisation": "mask"}}, {"locale": "xx"}])
def test_a_setting_that_cannot_be_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"recogniser of names|no names of"):
        Pii(**settings)


def test_the_summary_counts_by_kind_and_field(make: Make, write: Write) -> None:
    rows = [{"text": f"mail {n}@b.example", "label": "ab"[n % 2], "who": f"{CARD}"} for n in range(8)]
    source = {"kind": "jsonl", "path": write("t.jsonl", rows), "prompt": "text", "answer": "label"}
    made = make(source=source, ops=["pii"], split={"test": 0.25})
    assert made.summary.counts == {"pii": {"email": {"user": 8}, "card": {"meta.who": 8}}}
    assert make(source=source, ops=["pii"], split={"test": 0.25}, workers=2, batch_rows=3).files() == made.files()


def test_the_last_look_fails_and_tells_no_value(make: Make, write: Write) -> None:
    rows = [{"text": f"question {n}", "label": f"answer {n}"} for n in range(6)]
    source = {"kind": "jsonl", "path": write("t.jsonl", rows), "prompt": "text", "answer": "label"}
    with pytest.raises(DataError) as caught:
        make(source=source, ops=["pii", Leak()], split={"test": 0})
    told = json.dumps(caught.value.as_json())
    assert caught.value.where.line == 3
    assert caught.value.where.field == "messages[1].content"
    assert "card is left" in told
    assert "4111" not in told
    for allowed in ({"final_check": False}, {"actions": {"card": "keep"}}):
        assert make(source=source, ops=[{"kind": "pii", **allowed}, Leak()], split={"test": 0})


def test_flagged_high_risk_kinds_fail_but_flagged_mail_does_not(make: Make, write: Write) -> None:
    rows = [{"text": f"mail {n}@b.example", "label": f"answer {n}"} for n in range(4)]
    source = {"kind": "jsonl", "path": write("t.jsonl", rows), "prompt": "text", "answer": "label"}
    assert make(source=source, ops=[{"kind": "pii", "action": "flag"}], split={"test": 0})
    rows[1]["text"] = CARD
    source["path"] = write("u.jsonl", rows)
    with pytest.raises(DataError, match="card is left"):
        make(source=source, ops=[{"kind": "pii", "action": "flag"}], split={"test": 0})


def test_recall_and_precision_on_a_labelled_sample(make: Make, write: Write, tmp_path: Path) -> None:
    rows = [{"text": f"question {n}", "label": f"answer {n}"} for n in range(4)]
    source = {"kind": "jsonl", "path": write("t.jsonl", rows), "prompt": "text", "answer": "label"}
    sample = [
        {"text": "mail a@b.example", "spans": [{"start": 5, "end": 16, "kind": "email"}]},
        {"text": "mail at home", "spans": [{"start": 5, "end": 12, "kind": "email"}]},
        {"text": "from 8.8.8.8", "spans": []},
    ]
    settings = {"kind": "pii", "labelled": write("sample.jsonl", sample)}
    made = make(source=source, ops=[settings], split={"test": 0})
    email, ip = made.summary.measured["pii"]["email"], made.summary.measured["pii"]["ip"]
    assert (email.expected, email.found, email.recall[0], email.precision[0]) == (2, 1, 0.5, 1.0)
    assert 0 < email.recall[1] < 0.5 < email.recall[2] < 1
    assert (ip.recall, ip.precision[0]) == (None, 0.0)
    before = Pii(**settings).fingerprint(tmp_path)
    write("sample.jsonl", sample[:1])
    assert Pii(**settings).fingerprint(tmp_path) != before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "a text with its spans was wanted"),
        ('{"text": "a", "spans": [{"start": 0, "end": 1, "kind": "mail"}]}', "'mail' is no kind"),
        ('{"text": "a", "spans": [{"start": 0, "end": 9, "kind": "email"}]}', "does not lie in a text of 1"),
    ],
)
def test_a_bad_sample_is_told(write: Write, tmp_path: Path, line: str, said: str) -> None:
    operator = Pii(labelled=write("sample.jsonl", "\n" + line + "\n"))
    with pytest.raises(DataError, match=said) as caught:
        operator.prove(tmp_path)
    assert (caught.value.where.file, caught.value.where.line) == ("sample.jsonl", 2)
    with pytest.raises(DataError, match="cannot be read"):
        Pii(labelled="nowhere.jsonl").prove(tmp_path)


@pytest.mark.parametrize(
    "name", ["phone", "pin code", "ssn", "date of birth", "street", "po box", "postcode", "key", "n"]
)
@pytest.mark.parametrize("value", ["7", "42", "110", "1990", "90210", "28013"])
def test_nothing_is_so_short_a_number(name: str, value: str) -> None:
    """Such texts are passed over: what a finder claims of one begins in the name of its column."""
    before = f"{name}: "
    assert [found for found in find_pii(before + value) if found.start >= len(before)] == []
    assert _done(_row("Hello.", **{name: value})).meta == {name: value}


def test_a_recogniser_of_names_sees_short_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(FakeNames, "recognise", lambda self, texts: [seen.append(text) or [] for text in texts])  # type: ignore[func-returns-value]
    Pii(ner=FakeNames()).apply([_row("Hello.", number=42)])
    assert "number: 42" in seen


@pytest.mark.parametrize(
    "text",
    [
        "SSN: a b c d 767824212 e f g h 724656134",  # a tag names nothing
        f"ssn {'see ' * 4}{'x' * 50}@example.org, or 724656134",  # an edit brings a number near to its name
    ],
)
@pytest.mark.parametrize("action", ["redact", "mask", "hash"])
def test_what_the_last_look_finds_was_taken_out(text: str, action: str) -> None:
    pii = Pii(action=action)  # type: ignore[arg-type]  # by name
    assert pii.leftover([_done(_row(text), action=action)]) is None


def test_rows_of_many_scripts_hold_nothing_for_the_last_look() -> None:
    chance = random.Random(5)
    rows = [_row(_mixed(chance), ssn=_mixed(chance)) for _ in range(1500)]
    assert Pii().leftover([_done(row) for row in rows]) is None


def test_names_are_looked_for_where_that_is_asked_and_patterns_everywhere() -> None:
    messages = (
        Message(role="system", content="One of Ann Lee, Bo Ek; jo@x.example"),
        Message(role="user", content="Ann Lee jo@x.example"),
        Message(role="assistant", content="Bo Ek jo@x.example"),
    )
    row = Row(n=0, id="0" * 16, source="csv", file="f", line=1, kind="chat", messages=messages, group="Ann Lee",
              meta={"agent": "Ann Lee"})  # fmt: skip
    pii = Pii(ner=FakeNames())
    every = {edit.field: edit for edit in pii.apply([row]).edits[0] if edit.reason == "person"}
    assert {*every} == {*(f"messages[{at}].content" for at in range(3)), "group", "meta.agent"}
    some = pii.model_copy(update={"names_in": ("prompt", "group")})
    edits = some.apply([row]).edits[0]
    assert {edit.field for edit in edits if edit.reason == "person"} == {"messages[1].content", "group"}
    assert {edit.field for edit in edits if edit.reason == "email"} == {f"messages[{at}].content" for at in range(3)}
