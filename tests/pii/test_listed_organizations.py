"""Organisations of a list: whole names, as people write them, and not what only looks like one."""

from __future__ import annotations

import pytest

from luthier.pii.organizations import LIST, find_listed_organizations, find_organizations
from luthier.pii.span import PiiSpan

LINES = LIST.read_text(encoding="utf-8").splitlines()
WAYS = [way for line in LINES for way in line.split("|")]


def found(text: str) -> list[tuple[str, bool]]:
    return [(text[one.start : one.end], one.is_sure) for one in find_listed_organizations(text)]


def sure(text: str) -> list[str]:
    return [name for name, is_sure in found(text) if is_sure]


def test_the_list_is_in_order_and_has_nothing_twice() -> None:
    bare = [way.lstrip("~^") for way in WAYS]
    assert len(bare) == len(set(bare))
    assert [line.lstrip("~^").casefold() for line in LINES] == sorted(line.lstrip("~^").casefold() for line in LINES)
    assert all(name == " ".join(name.split()) and name and name[:1].isalnum() for name in bare)


def test_every_way_to_write_a_name_is_found() -> None:
    missed = []
    for way in WAYS:
        name = way.lstrip("~^")
        if found(f"Letter to {name}.") != [(name, not way.startswith("~"))]:
            missed.append(name)
    assert not missed


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("I switched from Vodafone to Deutsche Telekom.", ["Vodafone", "Deutsche Telekom"]),
        ("is vodafone down again? VODAFONE never answers", ["vodafone", "VODAFONE"]),
        ("my wells fargo login", ["wells fargo"]),
        ("Sainsbury’s and Vodafone’s apps", ["Sainsbury’s", "Vodafone"]),
        ("Oxford University Press wrote", ["Oxford University Press"]),
        ('(HSBC), "Lufthansa"; Ryanair!', ["HSBC", "Lufthansa", "Ryanair"]),
    ],
)
def test_names_are_found_as_people_write_them(text: str, wanted: list[str]) -> None:
    assert sure(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "write to help@vodafone.de or www.vodafone.de/hilfe",
        "#vodafone vodafone_id vodafone.de",
        "Mr Lufthansa and Frau Ryanair live in Vodafone Lane",
        "I will do my best, buy two and get one",
        "the best buy of the week",
        "google pay and GOOGLE MAPS, Google Drive",
        "Vodafonegate",
        "Wells\nFargo",
    ],
)
def test_what_only_looks_like_a_name_is_left(text: str) -> None:
    assert sure(text) == []


def test_what_means_something_else_too_is_left_to_those_who_weigh_it() -> None:
    assert found("The sky is blue; Sky is expensive") == [("Sky", False)]
    assert find_organizations("Sky is expensive") == []
    assert find_organizations("I work at Sky.") == [PiiSpan(10, 13, "organisation", "Sky")], "by the words around it"


def test_a_legal_form_belongs_to_the_name() -> None:
    assert [one.text for one in find_organizations("An invoice of Vodafone GmbH and one of Vodafone")] == [
        "Vodafone GmbH",
        "Vodafone",
    ]
