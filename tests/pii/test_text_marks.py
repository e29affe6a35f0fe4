"""What a look at many texts tells of one of them spares finders their time, and never a find."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luthier.pii.addresses import detect
from luthier.pii.addresses.context import PATTERNS
from luthier.pii.batch import MOST_CHARS
from luthier.pii.detect import find_pii
from luthier.pii.span import ANY, find_number_areas
from luthier.pii.text_marks import compute_text_marks

PIECES = [
    *("sk-abcdefghijklmnopqrstuv12", "password is hunter2x", "Passwort: geh3im!", "token=a1²bcd"),
    *("123456789:AA" + "x" * 33, "Calle Mayor s/n, Madrid"),
    *("Bearer abcdefghij123456", "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----"),
    *("secret 漢字漢字漢字1", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "078-05-1120", "::1"),
    *("P.O. Box 1234", "POSTBUS 12 34", "I live in Rue Victor", "Boulevard Saint Michel,", "box 7", "apartado 12"),
    *("fe80::abc:def", "aa:bb:cc:dd:ee:ff", "anna@example.com", "https://u:pass@host.org/?token=abcdefg"),
    *(
        "+49 30 1234567",
        "12 Main Street",
        "Calle Mayor s/n, Madrid",
        "born 1.2.1980",
        "word",
        "Word.",
        "'",
        ",",
        "\n",
        "key",
        "is",
        "x" * 30,
    ),
    *("٣٤٥٦ ٧٨٩٠", "５５５-123-4567", "\u200b"),
    *(
        "rue Victor Hugo",
        "Rue",
        "true",
        "SW1A 1AA",
        "10 Downing Street,\nLondon SW1A 2AA",
        "12/34 Oak Road",
        "1 2 3",
        "A1",
    ),
    *(
        "Largo de Aa,",
        "(Praia Azul)",
        "„Área Bela",
        "xLargo de Aa,",
        "Lago",
        "Condomínio Sol,",
        "send it to",
        "moro em",
    ),
    *(
        "Hauptstraße 5",
        "12 bis rue Monge",
        "Calle Ocho, we live",
        "keyboard",
        "card 5",
        "http://hooks.slack.com/services/T",
    ),
]
GLUED = st.lists(st.sampled_from(PIECES), max_size=6).map(" ".join)
TEXTS = st.lists(st.one_of(GLUED, st.text(max_size=40)), max_size=8)


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_with_marks_the_same_is_found(texts: list[str]) -> None:
    for text, marked in zip(texts, compute_text_marks(texts), strict=True):
        assert find_pii(text, marks=marked) == find_pii(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.sampled_from("0123٤²Ⅷ   .,-/_\n\u00a0abXé漢\u3000５\x85"), max_size=30), max_size=6))
@example(["1234", "5678"])
@example(["12 34", "x5678"])
def test_numbers_stand_where_they_stand_when_a_text_is_alone(texts: list[str]) -> None:
    for text, marked in zip(texts, compute_text_marks(texts), strict=True):
        assert marked.areas is None or marked.areas == find_number_areas(text)
        assert marked.areas is not None or any(char >= "\u3001" for char in text)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
@example(["rue Monge", "true 12"])
def test_digits_and_long_words_are_those_of_the_text_alone(texts: list[str]) -> None:
    for text, marked in zip(texts, compute_text_marks(texts), strict=True):
        assert marked.digits is None or list(marked.digits) == [one.start() for one in re.finditer(r"(?<!\d)\d", text)]
        assert marked.long is None or marked.long.split() == [word for word in text.split() if len(word) >= 18]


def test_house_numbers_are_found_from_where_digits_begin() -> None:
    text = "SW1A 1AA, at 12/34 Oak Road 5, 221b Baker Street and order 123456"
    found = [one.span() for one in PATTERNS["house_number"].finditer(text)]
    assert len(found) > 3
    assert [one.span() for one in detect._house_numbers(text, compute_text_marks([text])[0].digits)] == found


@pytest.mark.parametrize(
    "text", ["the keyboard", "a card", "they reach", "true", "continue", "on sale", "a scale", "Large vale"]
)
def test_common_words_are_no_places(text: str) -> None:
    assert "places" in compute_text_marks([text, "nothing"])[0].missing


def test_marks_spare_something() -> None:
    plain, digit, key, long = (
        one.missing for one in compute_text_marks(["nothing here", "room 12", "a1b2c3 now", "x" * 18])
    )
    assert plain == {"digits", "long", "keys", "places", "mixed"}
    assert digit == {"long", "keys", "places", "mixed"}
    assert key == {"long", "places"}
    assert long == {"digits", "keys", "places", "mixed"}
    assert compute_text_marks(["-----BEGIN RSA"])[0].missing == {"digits", "long", "places", "mixed"}
    assert compute_text_marks(["DE89 3704 0044"])[0].missing == {"long", "keys", "places"}


@pytest.mark.parametrize(
    "text",
    [
        "Calle Mayor",
        "rue",
        "Rua",
        "7th Avenue",
        "the venue",
        "s/n",
        "P.O. Box",
        "POSTFACH",
        "Apartado de Correos",
        "boîte postale",
        "Largo",
        "(Área",
        "Urbanización",
        "Via",
    ],
)
def test_what_a_street_or_a_box_is_told_by_is_seen_in_the_last_letters(text: str) -> None:
    assert "places" not in compute_text_marks(["nothing", f"{text} 12"])[1].missing


def test_a_text_too_long_to_be_marked_is_looked_at_wholly() -> None:
    assert compute_text_marks(["a", "b" * MOST_CHARS])[1] == ANY
