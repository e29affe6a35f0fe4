"""The tags that end a text are found in one look, as the plain pattern finds them."""

from __future__ import annotations

import re
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.chat.spans import _closing
from tests.linear import assert_quick

PLAIN = re.compile(r"(?:\s*<[^<>]*>)+\Z")


@given(st.text("<>a \n", max_size=20), st.integers(0, 8))
def test_they_begin_where_the_pattern_says(text: str, lowest: int) -> None:
    found = PLAIN.search(text, lowest)
    assert text[_closing(text, lowest) :] == (found[0] if found else "")


@pytest.mark.parametrize("piece", ["\n", "<a>", "<", ">", " <a> ", "<a", "a>"])
def test_long_texts_take_no_longer_than_their_length(piece: str) -> None:
    for end in ("", "x", ">", "<b>"):
        text = piece * 200_000 + end
        assert_quick(partial(_closing, text, 0), 2)
