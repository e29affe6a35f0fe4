"""Plain text and what follows it as ids: the harness' borders, windows that ask each token once, nothing lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.chat.plain_text import (
    bos_or_eos_id,
    encode_loglikelihood_pairs,
    encode_plain_texts,
    encode_rolling_windows,
)
from luthier.chat.tokenizer import ChatTokenizer
from tiny_models import tiny_model


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    folder: Path = tmp_path_factory.mktemp("model")
    tiny_model(folder)
    return ChatTokenizer.load(folder)


def test_what_follows_has_the_tokens_of_the_whole(text: ChatTokenizer) -> None:
    whole = encode_plain_texts(text, ["where is my parcel please"])[0]
    for place in range(1, 24):
        before, after = "where is my parcel please"[:place], "where is my parcel please"[place:]
        (pair,) = encode_loglikelihood_pairs(text, [(before, after)], 100)
        alone = encode_plain_texts(text, [before.rstrip()])[0]
        assert pair.before == alone
        assert pair.after == whole[len(alone) :]


def test_white_space_goes_over_to_what_follows(text: ChatTokenizer) -> None:
    one, other = encode_loglikelihood_pairs(text, [("where is ", "my parcel"), ("where is", " my parcel")], 100)
    assert one == other


def test_nothing_before_is_one_token(text: ChatTokenizer) -> None:
    bare = text.tokenizer("parcel", add_special_tokens=False)["input_ids"]
    for before in ("", "  "):
        (pair,) = encode_loglikelihood_pairs(text, [(before, "parcel")], 100)
        assert pair.before == [bos_or_eos_id(text)]
    assert encode_loglikelihood_pairs(text, [("", "parcel")], 100)[0].after == bare


def test_a_long_prompt_loses_its_beginning_and_says_how_much(text: ChatTokenizer) -> None:
    (whole,) = encode_loglikelihood_pairs(text, [("where is my parcel please", " thanks")], 100)
    (short,) = encode_loglikelihood_pairs(text, [("where is my parcel please", " thanks")], 8)
    assert (short.before + short.after) == (whole.before + whole.after)[-9:]
    assert short.cut == len(whole.before) + len(whole.after) - 9
    assert short.after == whole.after


def test_special_tokens_that_somebody_typed_are_text(text: ChatTokenizer) -> None:
    special = text.tokenizer.eos_token
    typed = encode_plain_texts(text, [f"a {special} b"])[0]
    assert text.tokenizer.eos_token_id not in typed
    assert text.decode(typed).endswith(f"a {special} b")


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 7, 50])
def test_windows_ask_each_token_once(text: ChatTokenizer, limit: int) -> None:
    ids = encode_plain_texts(text, ["where is my parcel please, it is late and broken"])[0]
    found = encode_rolling_windows(text, "where is my parcel please, it is late and broken", limit)
    assert [token for pair in found for token in pair.after] == ids
    for number, pair in enumerate(found):
        assert 1 <= len(pair.before) + len(pair.after) - 1 <= limit
        if number:
            assert len(pair.before) + len(pair.after) - 1 == limit  # as much before it as there is room for
    assert encode_rolling_windows(text, "", limit) == []
