"""What a look at many texts tells of one of them spares finders their time, and never a find."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.text.flat import MOST_CHARS
from luthier.text.pii.scan import ANY, find, marks

PIECES = [
    *("sk-abcdefghijklmnopqrstuv12", "password is hunter2x", "Passwort: geh3im!", "token=a1²bcd"),
    *("123456789:AA" + "x" * 33, "Calle Mayor s/n, Madrid"),
    *("Bearer abcdefghij123456", "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----"),
    *("secret 漢字漢字漢字1", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "078-05-1120", "::1"),
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
]
GLUED = st.lists(st.sampled_from(PIECES), max_size=6).map(" ".join)
TEXTS = st.lists(st.one_of(GLUED, st.text(max_size=40)), max_size=8)


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_with_marks_the_same_is_found(texts: list[str]) -> None:
    for text, marked in zip(texts, marks(texts), strict=True):
        assert find(text, marks=marked) == find(text)


def test_marks_spare_something() -> None:
    plain, digit, key, long = marks(["nothing to see here", "room 12", "it is a1b2c3 now", "x" * 18])
    assert (plain.digits, plain.keys) == (False, False)
    assert (digit.digits, digit.keys) == (True, False)
    assert key.keys
    assert long.keys
    assert not long.digits


def test_a_text_too_long_to_be_marked_is_looked_at_wholly() -> None:
    assert marks(["a", "b" * MOST_CHARS])[1] == ANY
