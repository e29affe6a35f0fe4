"""Names show in greetings, signatures, introductions, titles and columns; other words with capitals show none."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.chat.messages import Message
from luthier.data.ops.pii import Pii
from luthier.data.pii.name_evidence import find_name_evidence, find_possible_names, rows_with_names
from luthier.data.row import Row
from luthier.data.suggest.profile import SourceProfile
from luthier.data.suggest.trial import mask_pii
from tests.linear import assert_linear

SHOWN = [
    ("Hallo Sabine,\nwo ist mein Paket?", ["Sabine"], "greeting"),
    ("Dear Emily Thompson,\nthank you", ["Emily Thompson"], "greeting"),
    ("Bonjour Julien, merci", ["Julien"], "greeting"),
    ("Es geht nicht.\n\nMit freundlichen Grüßen\nSabine Krämer", ["Sabine Krämer"], "signature"),
    ("Best regards,\nOliver Bennett", ["Oliver Bennett"], "signature"),
    ("Danke und viele Grüße, Thomas", ["Thomas"], "signature"),
    ("VG Anna", ["Anna"], "signature"),
    ("Un saludo,\nCarmen Ortega", ["Carmen Ortega"], "signature"),
    ("Hi, my name is Oliver Bennett and I ask", ["Oliver Bennett"], "introduction"),
    ("ich heiße Thomas und warte", ["Thomas"], "introduction"),
    ("hier spricht Monika Brandt.", ["Monika Brandt"], "introduction"),
    ("Frau Krämer hat angerufen", ["Krämer"], "title"),
    ("please ask Mr. O'Neill", ["O'Neill"], "title"),
    ("Herrn Dr Wolff-Berger", ["Dr Wolff-Berger"], "title"),
]
NOT_SHOWN = [
    *("Hello World, again", "Hallo Team,\nbitte", "Hi there,", "Sehr geehrte Damen und Herren,", "Dear Customer,"),
    *("Mit freundlichen Grüßen\nIhr Kundenservice", "Thanks in advance", "Best Price", "thank you\nKonto 12"),
    *("my name is wrong on the invoice", "This is Important", "Frau und Mann", "Herr Doktor"),
    *("Drucker WLAN Frage Störung", "I am Sure", "[PERSON] and [EMAIL]", "Viele Grüße\n[PERSON]"),
]


def rows(texts: list[str], meta: list[dict[str, Any]] | None = None) -> list[Row]:
    turns = [(Message(role="user", content=text), Message(role="assistant", content="yes")) for text in texts]
    return [
        Row(n=at, id=f"{at:016x}", source="csv", file="f.csv", line=at + 2, kind="chat", messages=messages, meta=one)
        for at, (messages, one) in enumerate(zip(turns, meta or [{}] * len(texts), strict=True))
    ]


@pytest.mark.parametrize(("text", "names", "place"), SHOWN)
def test_a_name_shows(text: str, names: list[str], place: str) -> None:
    found = list(find_name_evidence(text))
    assert [text[sign.start : sign.end] for sign in found] == names
    assert {sign.position for sign in found} == {place}
    assert not any(name in mask_pii(text) for name in names)


@pytest.mark.parametrize("text", NOT_SHOWN)
def test_what_is_no_name_shows_none(text: str) -> None:
    assert list(find_name_evidence(text)) == []


def test_columns_of_names() -> None:
    agents = ["Sabine Krämer", "Thomas Müller", "Anna Kowalska"]
    meta = [
        {"agent": agents[at % 3], "city": ["Paris", "Berlin"][at % 2], "Bearbeiter": "Müller", "Retoure": "ja"}
        for at in range(9)
    ]
    assert rows_with_names(rows(["wo ist es?"] * 9, meta)) == {"column agent": 9, "column Bearbeiter": 9}
    products = [{"name": ["Blue Lamp", "Red Chair"][at % 2], "contact": "Support Team"} for at in range(9)]
    assert rows_with_names(rows(["wo ist es?"] * 9, products)) == {}


def profile(names: dict[str, int], looked_at: int = 1000, **more: Any) -> SourceProfile:
    return SourceProfile(
        path="f.csv", kind="csv", rows=looked_at, estimated=False, looked_at=looked_at, broken=0, columns={}, notes=[],
        names=names, row_bytes=300, **more,
    )  # fmt: skip


def test_the_recogniser_is_proposed_where_people_write() -> None:
    suggestion = Pii.suggest(profile({"signature": 12, "title": 3}))
    assert suggestion is not None
    assert suggestion.settings == {"action": "redact", "ner": {"kind": "rampart", "organizations": False}}
    assert "signature in 12, title in 3" in suggestion.why
    assert "about 33 s of one core for 1,000 rows" in suggestion.why
    assert Pii.model_validate({"kind": "pii", **suggestion.settings}).ner is not None


def test_few_names_and_persons_that_are_only_spoken_of_do_not_suffice() -> None:
    assert Pii.suggest(profile({"signature": 9})) is None
    assert Pii.suggest(profile({"title": 49})) is None
    assert Pii.suggest(profile({"title": 50})) is not None
    assert Pii.suggest(profile({"greeting": 1}, looked_at=20)) is not None
    known = Pii.suggest(profile({"title": 49}, pii={"email": 3}))
    assert known is not None
    assert known.settings == {"action": "redact"}


def test_classes_are_not_read() -> None:
    suggestion = Pii.suggest(profile({"signature": 500}, answers={"Drucker": 500, "Frage": 500}))
    assert suggestion is not None
    assert suggestion.settings["names_in"] == ["prompt", "meta", "group"]


def test_spans_to_hide_are_in_order_and_apart() -> None:
    text = "Hallo Sabine Krämer,\nAnna Kowalska und Mark kommen.\nVG Sabine Krämer"
    spans = find_possible_names(text)
    assert [text[start:end] for start, end in spans] == ["Sabine Krämer", "Anna Kowalska", "Mark", "Sabine Krämer"]


@pytest.mark.parametrize(
    "piece", ["Hallo Anna", "Grüße\n", "Anna ", "VG A B ", "Frau A ", "my name is A", "best best ", "regards, \n "]
)
def test_time_grows_no_faster_than_the_text(piece: str) -> None:
    assert_linear(lambda text: list(find_name_evidence(text)), piece, 2000, floor_s=0.0025)
