"""Texts end to end have the words, lengths and characters that each has alone."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luthier.pii.batch import MOST_CHARS, ConcatenatedTexts, concatenate_into_blocks, find_hash_bin_collisions

PIECES = st.sampled_from(
    ["word", "Word", "a", "ä", "漢", "\U0001f600", "\ud800", " ", "\n", "\u3000", "\x85", "\x1c", "7"]
)
TEXTS = st.lists(st.one_of(st.lists(PIECES).map("".join), st.text(max_size=40)), min_size=1, max_size=8)
FEW = settings(max_examples=60, deadline=None)


@FEW
@given(TEXTS)
@example(["", "", " "])
def test_words_are_those_of_split(texts: list[str]) -> None:
    flat = ConcatenatedTexts(texts)
    assert flat.words.tolist() == [len(text.split()) for text in texts]
    assert flat.chars.tolist() == [len(text) for text in texts]
    words = [word for text in texts for word in text.split()]
    assert flat.lengths.tolist() == [len(word) for word in words]
    assert flat.text_of.tolist() == [place for place, text in enumerate(texts) for _ in text.split()]
    assert flat.total(flat.lengths).tolist() == [len("".join(text.split())) for text in texts]
    assert flat.count(flat.codes == ord("a")).tolist() == [text.count("a") for text in texts]
    assert all(word[0].isalpha() for word, yes in zip(words, flat.begins_with_letter, strict=True) if yes)


@FEW
@given(TEXTS)
def test_words_are_equal_when_their_hashes_are(texts: list[str]) -> None:
    """As far as a hash of 64 bits can tell; capitals of ASCII are small letters."""
    small = str.maketrans({chr(code): chr(code + 32) for code in range(ord("A"), ord("Z") + 1)})
    words = [word.translate(small) for text in texts for word in text.split()]
    hashes = ConcatenatedTexts(texts).hashes.tolist()
    assert len(set(hashes)) == len(set(words)) == len(set(zip(words, hashes, strict=True)))


@FEW
@given(st.lists(st.one_of(st.integers(0, 50), st.integers(0, 3 * MOST_CHARS)), max_size=12))
@example([0] * 3000)
def test_blocks_hold_all_texts_in_order(sizes: list[int]) -> None:
    texts = ["x" * size for size in sizes]
    place = 0
    for begin, flat in concatenate_into_blocks(texts):
        assert begin == place
        if flat is None:
            assert len(texts[begin]) >= MOST_CHARS
            place += 1
        else:
            assert flat.texts == texts[begin : begin + len(flat.texts)]
            assert len(flat.codes) <= MOST_CHARS
            place += len(flat.texts)
    assert place == len(texts)


@FEW
@given(st.lists(st.integers(0, 40).map(lambda number: number << 50 | number), max_size=60))
def test_whatever_comes_more_than_once_is_in_company(numbers: list[int]) -> None:
    found = find_hash_bin_collisions(np.array(numbers, dtype=np.uint64), 12).tolist()
    assert all(is_in for number, is_in in zip(numbers, found, strict=True) if numbers.count(number) > 1)
    assert find_hash_bin_collisions(np.arange(4096, dtype=np.uint64), 17).mean() < 0.1, "few others are"
