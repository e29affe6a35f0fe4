"""Every recogniser of names is documented, pure, and says what it finds."""

from __future__ import annotations

from itertools import pairwise

import pytest

from documented import undescribed
from luthier.core.component import components_by_kind
from luthier.core.errors import LuthierError
from luthier.pii.recognizer import Recognizer

TEXTS = ["Please ask Maria Gonzalez about it.", "", "1 2 3", "My name is John Smith and I live in Leeds. " * 40]


@pytest.fixture(params=sorted(components_by_kind(Recognizer)))
def recogniser(request: pytest.FixtureRequest) -> Recognizer:
    return Recognizer.parse(request.param)


def test_is_documented(recogniser: Recognizer) -> None:
    assert type(recogniser).summary()
    assert recogniser.finds
    assert undescribed(type(recogniser)) == []


def test_finds_what_it_says_whatever_stands_beside(recogniser: Recognizer) -> None:
    try:
        together = recogniser.recognise(TEXTS)
    except LuthierError as error:
        pytest.skip(f"not to be had here: {error.message}")
    assert together == [recogniser.recognise([text])[0] for text in TEXTS]
    for text, finds in zip(TEXTS, together, strict=True):
        assert all(one.kind in recogniser.finds and text[one.start : one.end] == one.text for one in finds)
        assert all(one.end <= after.start for one, after in pairwise(finds))
    if together[0]:
        assert "Gonzalez" in together[0][0].text
