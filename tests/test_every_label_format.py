"""Every label format keeps a format's promises: recognised for what it is, every judgment with who and what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from documented import undescribed
from luthier.core.component import components_by_kind
from luthier.data.annotation.annotations import AnnotatedItem
from luthier.data.label_format import LabelFormat
from luthier.data.row import SourceRecord

KINDS = sorted(components_by_kind(LabelFormat))
SAID = [("one", "ann", "a"), ("two", "ann", "b")]


def _label_studio(text: str, who: str, label: str) -> dict[str, Any]:
    result = {"from_name": "q", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
    return {"id": text, "data": {"text": text}, "annotations": [{"completed_by": who, "result": [result]}]}


def _argilla(text: str, who: str, label: str) -> dict[str, Any]:
    return {"id": text, "fields": {"text": text}, "responses": {"q": [{"value": label, "user_id": who}]}}


def _doccano(text: str, who: str, label: str) -> dict[str, Any]:
    return {"id": text, "text": text, "label": [label], "Comments": []}


def _table(text: str, who: str, label: str) -> dict[str, Any]:
    return {"id": text, "text": text, "annotator": who, "label": label}


MAKERS: dict[str, Callable[[str, str, str], dict[str, Any]]] = {
    "label_studio": _label_studio,
    "argilla": _argilla,
    "doccano": _doccano,
    "table": _table,
}


def _rows(kind: str) -> list[dict[str, Any]]:
    return [MAKERS[kind](*one) for one in SAID]


def test_every_format_has_a_maker() -> None:
    assert set(KINDS) == set(MAKERS)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_recognised_before_any_other(kind: str) -> None:
    fitting = [
        member for member in components_by_kind(LabelFormat).values() if member.model_validate({}).fits(_rows(kind))
    ]
    assert min(fitting, key=lambda member: member.order).model_fields["kind"].default == kind
    assert not any(member.model_validate({}).fits([{"prompt": "a", "answer": "b"}]) for member in fitting)


@pytest.mark.parametrize("kind", KINDS)
def test_every_judgment_is_read(kind: str) -> None:
    records = [SourceRecord(row, "ann.jsonl", line) for line, row in enumerate(_rows(kind), start=1)]
    items = list(
        components_by_kind(LabelFormat)[kind].model_validate({}).items(records, "ann.jsonl", lambda text: None)
    )
    assert all(isinstance(one, AnnotatedItem) for one in items)
    found = [one for one in items if isinstance(one, AnnotatedItem)]
    assert [(one.key, one.values["text"], one.line) for one in found] == [("one", "one", 1), ("two", "two", 2)]
    assert [(said.annotator, said.value) for one in found for said in one.judgments] == [("ann", "a"), ("ann", "b")]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_documented_and_its_settings_come_back(kind: str) -> None:
    member = components_by_kind(LabelFormat)[kind]
    found = member.model_validate({})
    assert member.summary()
    assert member.says
    assert undescribed(member) == []
    assert LabelFormat.parse(found.settings()) == found
