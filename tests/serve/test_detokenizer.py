"""Text comes whole: characters over several tokens, stop texts in pieces, any tokenizer."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from luthier.serve.detokenizer import IncrementalDetokenizer, StopChecker
from tests.chat.families import byte_level, dressed, metaspace

KINDS = ("bytes", "pieces", "old pieces")


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    made = {"bytes": byte_level, "pieces": metaspace, "old pieces": lambda: metaspace(legacy=True)}
    return dressed(made[kind](), None)


def decoded(kind: str, ids: list[int]) -> str:
    return str(tokenizer(kind).decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def spelled(kind: str, ids: list[int]) -> list[str]:
    letters = IncrementalDetokenizer(lambda some: decoded(kind, list(some)), tokenizer(kind).all_special_ids)
    return [*(letters.add(token) for token in ids), letters.rest()]


@given(st.lists(st.integers(0, len(tokenizer("bytes")) - 1), max_size=40))
def test_pieces_of_any_bytes_make_the_whole(ids: list[int]) -> None:
    assert "".join(spelled("bytes", ids)) == decoded("bytes", ids)


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(max_size=20))
def test_pieces_make_the_whole(kind: str, text: str) -> None:
    ids = tokenizer(kind)(text, add_special_tokens=False)["input_ids"]
    assert "".join(spelled(kind, ids)) == decoded(kind, ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text", ["Grüße, 世界! 👩‍👩‍👧‍👦 e\u0301 \u200f\u202e", "a\n\n  b\tc", " begins with a blank", "\ufffd really\ufffd"]
)
def test_no_piece_holds_half_a_character(kind: str, text: str) -> None:
    ids = tokenizer(kind)(text, add_special_tokens=False)["input_ids"]
    pieces = spelled(kind, ids)
    assert "".join(pieces) == decoded(kind, ids)
    assert "".join(pieces).count("\ufffd") == text.count("\ufffd")


def test_a_character_that_never_ends_is_told_at_the_end() -> None:
    ids = tokenizer("bytes")("世", add_special_tokens=False)["input_ids"][:-1]
    assert spelled("bytes", ids)[:-1] == [""] * len(ids)
    assert set(spelled("bytes", ids)[-1]) == {"\ufffd"}


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.data())
def test_an_answer_ends_before_the_first_stop(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    parts = [text[one:other] for one, other in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    ending = StopChecker(stops)
    said = "".join([*(ending.add(part) for part in parts), ending.rest()])
    first = min((place for stop in stops if (place := text.find(stop)) >= 0), default=None)
    assert ending.found == (first is not None)
    # a stop is found as soon as its last character is there, so one that ends earlier is found earlier
    assert text.startswith(said)
    assert not any(stop in said for stop in stops)
    if first is None:
        assert said == text
    else:
        assert len(said) >= min(text.find(stop) for stop in stops if stop in text)
