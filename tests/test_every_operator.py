"""Every operator keeps an operator's promises: pure, order-free, idempotent where it says so, documented."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from documented import undescribed
from luthier.chat.messages import Message
from luthier.chat.preference import REJECTED
from luthier.core.component import components_by_kind
from luthier.data.engine.batch import NamedOperator, apply_operator_result
from luthier.data.engine.corpus import InMemoryRows
from luthier.data.engine.tables import batch_from_arrow, spill_schema, to_arrow
from luthier.data.operator import Operator, OperatorResultLike, RowOperator, SetOperator, Suggestion
from luthier.data.row import Batch, Row
from luthier.data.suggest.profile import ChangeExample, ColumnProfile, OperatorTrial, SourceProfile

ROOT = Path(__file__).parent.parent
KINDS = sorted(kind for kind, part in components_by_kind(Operator).items() if part.__module__.startswith("luthier."))
HARD = (
    "Hello <b>there</b>&nbsp;my mail is jo@example.com, card 4111 1111 1111 1111",
    "schÃ¶ne GrÃ¼ÃŸe aus MÃ¼nchen, bitte rufen Sie an: 030 23125 356",
    "\u200bzero\u00adwidth   and\ttabs \r\n\r\n\r\n lines ",
    "DE89 3704 0044 0532 0130 00 und 192.168.10.4",
    "???",
    "hola hola hola",
    "It works now.\n\nKind regards\nAnn Lee\n\nOn 3 Feb 2025 Desk wrote:\n> Try again.\n> Desk\n",
    "> Did you try?\n\nYes.\n> And now?\n-- \nAnn\n",
    "[b]Paid[/b] 1.234,56 EUR on 03/04/2025, 5 kilograms {color:red}late{color} | damn",
)
LINES = ("Kind regards", "On Monday 3 Ann wrote:", "> again", "-- ", "", "From: a", "To: b", "Subject: c", "Sent: 1")
_CHANGE = ChangeExample(before="a", after="b")
TEXTS = st.one_of(
    st.sampled_from(HARD),
    st.text(max_size=60),
    st.text("aàß<>&;@.+()- 0123\n\r\t\u200b", max_size=60),
    st.lists(st.sampled_from(LINES), max_size=12).map("\n".join),
)


@pytest.fixture(autouse=True)
def _own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_PII_KEY", "a key for tests")


def _row(n: int, prompt: str, answer: str) -> Row:
    messages = (Message(role="user", content=prompt), Message(role="assistant", content=answer))
    meta = {"note": prompt, "n": n, "rejected": [answer, None, [{"role": "user", "content": prompt}]][n % 3]}
    return Row(n, f"{n:016x}", "csv", "f.csv", n + 2, "chat", messages, (), meta, "group " + prompt[:5])


ROWS = st.lists(
    st.tuples(TEXTS, st.sampled_from(["yes", "Yes ", "no", "refunds", "refund"])), min_size=1, max_size=8
).map(lambda pairs: [_row(n, prompt, answer) for n, (prompt, answer) in enumerate(pairs)])


def _outcome(operator: Operator, rows: list[Row]) -> OperatorResultLike:
    if isinstance(operator, RowOperator):
        return operator.apply(rows)
    assert isinstance(operator, SetOperator)
    return operator.settle(InMemoryRows(operator, rows))


def _done(operator: Operator, rows: list[Row]) -> Batch:
    return apply_operator_result(Batch(rows), NamedOperator(operator.kind, operator), _outcome(operator, rows), [])[0]


@pytest.fixture(params=KINDS)
def operator(request: pytest.FixtureRequest) -> Operator:
    return Operator.parse(request.param)


def _property(test: Callable[[list[Row]], None]) -> None:
    settings(max_examples=40, deadline=None)(given(ROWS)(test))()


def test_is_one_of_the_two_forms_and_documented(operator: Operator) -> None:
    assert isinstance(operator, RowOperator | SetOperator)
    member = type(operator)
    assert member.summary()
    assert member.reads
    assert undescribed(member) == []
    assert Operator.parse(operator.settings()) == operator


def test_stands_in_the_reference_with_its_settings(operator: Operator) -> None:
    page = (ROOT / "docs" / "reference" / "operator.md").read_text(encoding="utf-8")
    _, _, section = page.partition(f"## `{operator.kind}`\n")
    section = section.partition("\n## ")[0]
    assert type(operator).summary() in section
    assert all(f"| `{name}` |" in section for name in type(operator).model_fields if name != "kind")


def test_what_is_tried_is_suggested_in_words(operator: Operator) -> None:
    tried = type(operator).trial()
    if tried is None:
        pytest.skip("is not tried on a sample")
    assert isinstance(tried, type(operator))
    assert type(operator).suggest.__func__ is not Operator.suggest.__func__


def test_the_order_of_rows_does_not_matter_to_each(operator: Operator) -> None:
    if not isinstance(operator, RowOperator):
        pytest.skip("sees all rows")

    def check(rows: list[Row]) -> None:
        assert _done(operator, rows[::-1]).rows == _done(operator, rows).rows[::-1]

    _property(check)


def test_is_pure(operator: Operator) -> None:
    def check(rows: list[Row]) -> None:
        before = copy.deepcopy(rows)
        assert _outcome(operator, rows) == _outcome(operator, rows)
        assert rows == before

    _property(check)


def test_keeps_ids_places_and_unread_parts(operator: Operator) -> None:
    def check(rows: list[Row]) -> None:
        by_number = {row.n: row for row in rows}
        for row in _done(operator, rows).rows:
            old = by_number[row.n]
            assert (row.id, row.file, row.line, row.kind) == (old.id, old.file, old.line, old.kind)
            assert len(row.messages) == len(old.messages)
            assert "meta" in operator.reads or _but_other(row.meta) == _but_other(old.meta)
            assert "group" in operator.reads or row.group == old.group

    _property(check)


def _but_other(meta: dict[str, Any]) -> dict[str, Any]:
    """The columns without an answer that was not preferred, which is cleaned as the other one is."""
    return {name: value for name, value in meta.items() if name not in REJECTED}


def test_both_answers_of_a_pair_are_changed_alike(operator: Operator) -> None:
    def pair(row: Row) -> Row:
        other = [row.prompt, row.messages[-1].model_dump(), [turn.model_dump() for turn in row.messages]][row.n % 3]
        answer = row.prompt if row.n % 3 == 0 else row.answer
        turns = (row.messages[0], Message(role="assistant", content=answer))
        return replace(row, messages=turns, meta=dict.fromkeys(REJECTED, other))

    def check(rows: list[Row]) -> None:
        done = _done(operator, [pair(row) for row in rows]).rows
        for row, other in [(row, row.meta[name]) for row in done for name in REJECTED]:
            said = other if isinstance(other, str) else other[-1]["content"] if row.n % 3 == 2 else other["content"]
            assert said == row.answer
            assert row.n % 3 != 2 or other[0]["content"] == row.prompt

    _property(check)


def test_edits_are_spans_of_the_text_as_it_was(operator: Operator) -> None:
    def check(rows: list[Row]) -> None:
        for place, edits in _outcome(operator, rows).edits.items():
            for edit in edits:
                assert rows[place].text(edit.field)[edit.start : edit.end] == edit.before
                assert edit.reason

    _property(check)


def test_writes_the_columns_it_names(operator: Operator) -> None:
    types: dict[str, Any] = {"text": str, "number": float, "count": int, "flag": bool}

    def check(rows: list[Row]) -> None:
        attributes = _outcome(operator, rows).attributes
        assert set(attributes) == set(operator.writes)
        for name, values in attributes.items():
            assert len(values) == len(rows)
            assert all(value is None or isinstance(value, types[operator.writes[name]]) for value in values)

    _property(check)


def test_is_idempotent_where_it_says_so(operator: Operator) -> None:
    if not operator.idempotent:
        pytest.skip("does not promise it")

    def check(rows: list[Row]) -> None:
        once = _done(operator, rows).rows
        assert _done(operator, once).rows == once

    _property(check)


def test_a_rows_outcome_does_not_depend_on_its_neighbours(operator: Operator) -> None:
    if not isinstance(operator, RowOperator):
        pytest.skip("sees all rows")

    def check(rows: list[Row]) -> None:
        whole = _done(operator, rows)
        alone = [_done(operator, [row]) for row in rows]
        assert whole.rows == [row for batch in alone for row in batch.rows]
        for name, values in whole.attributes.items():
            assert list(values) == [value for batch in alone for value in batch.attributes[name]]

    _property(check)


def test_sketches_have_one_width(operator: Operator) -> None:
    if not isinstance(operator, SetOperator):
        pytest.skip("sees single rows")

    def check(rows: list[Row]) -> None:
        together = operator.sketch(rows)
        assert len({len(sketch) for sketch in together}) == 1
        assert together == [operator.sketch([row])[0] for row in rows]

    _property(check)


def test_its_rows_survive_the_disk(operator: Operator) -> None:
    def check(rows: list[Row]) -> None:
        done = _done(operator, [row for row in rows if row.prompt.isprintable()])
        schema = spill_schema({f"{operator.kind}.{name}": kind for name, kind in operator.writes.items()})
        assert batch_from_arrow(to_arrow(done, schema)) == done

    _property(check)


def test_suggests_itself_with_settings_that_it_accepts(operator: Operator) -> None:
    column = ColumnProfile(
        name="text", kind="text", filled=9, distinct=9, mean_chars=9, max_chars=20, mean_words=2, common={}
    )
    priority = {"urgent": 60, "normal": 60, "urgnet": 1}
    misspelt = ColumnProfile(
        name="priority", kind="text", filled=121, distinct=3, mean_chars=6, max_chars=6, mean_words=1, common=priority
    )
    poor = SourceProfile(
        path="f.csv",
        kind="csv",
        rows=9,
        estimated=False,
        looked_at=9,
        broken=0,
        columns={"text": column, "priority": misspelt},
        notes=[],
        languages={"en": 5, "de": 4},
        pii={"email": 3},
        media={"image": 9},
        trials={operator.kind: OperatorTrial(edited=2, dropped={"quality no_letters": 1}, examples=(_CHANGE,))},
        spellings={"Refunds": "refund"},
    )
    if type(operator).suggest.__func__ is Operator.suggest.__func__:
        assert "never suggests itself" in " ".join((type(operator).__doc__ or "").split()), "says why"
        return
    suggestion = type(operator).suggest(poor)
    assert isinstance(suggestion, Suggestion)
    assert Operator.parse({"kind": operator.kind, **suggestion.settings})
    assert re.search(r"\d", suggestion.why), "a reason names what was seen"


def test_an_empty_corpus_is_settled(operator: Operator) -> None:
    if isinstance(operator, SetOperator):
        outcome = operator.settle(InMemoryRows(operator, []))
        assert not outcome.drops
        assert not outcome.edits
        assert all(len(np.asarray(values)) == 0 for values in outcome.attributes.values())
