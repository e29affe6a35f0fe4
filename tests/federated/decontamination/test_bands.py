"""Which rows count as near copies: chances as promised, padded sizes, and bands counted row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from luthier.data.ops.near_dedup import NearDedup
from luthier.federated.decontamination.bands import (
    LEAST_ELEMENTS,
    _build_row,
    compute_bands,
    encode_elements,
    find_repeated_rows,
    pad_candidates,
    pad_size,
)
from luthier.federated.decontamination.settings import FIRST_BANDS, LATER_BANDS, DecontaminationSettings
from tuning import chat

BANDS = FIRST_BANDS.number


@pytest.mark.parametrize("threshold", [0.7, 0.8, 0.85, 0.9, 0.95, 1.0])
def test_a_pair_at_the_threshold_is_overlooked_once_in_a_hundred(threshold: float) -> None:
    """By drawing signatures whose columns agree with the chance that they have."""
    settings, chance = DecontaminationSettings(threshold=threshold), np.random.default_rng(1)
    found = np.ones(2000, dtype=bool)
    for bands, least in ((FIRST_BANDS, settings.candidate_bands), (LATER_BANDS, settings.shared_bands)):
        equal = chance.random((2000, bands.number, bands.width)) < threshold + (1 - threshold) / 256
        found &= equal.all(axis=2).sum(axis=1) >= least
    assert found.mean() >= 0.98
    assert settings.find_chance(threshold) == pytest.approx(found.mean(), abs=0.006)
    assert settings.find_chance(threshold) >= 0.99


@pytest.mark.parametrize("least", [0, 5, 20, 32])
def test_chances_are_those_of_scipy(least: int) -> None:
    chance = (0.8 + 0.2 / 256) ** 4
    assert FIRST_BANDS.find_chance(0.8, least) == pytest.approx(binom.sf(least - 1, 32, chance), rel=1e-12)


def test_what_is_left_out_at_the_usual_threshold_is_hardly_below_it() -> None:
    settings = DecontaminationSettings()
    assert settings.find_chance(0.82) > 0.998
    assert settings.find_chance(0.75) < 0.3
    assert settings.find_chance(0.72) < 0.01
    assert settings.find_chance(0.7) < 0.001
    assert settings.find_chance(0.6) < 1e-15


def test_what_is_asked_of_candidates_has_few_sizes() -> None:
    """Below one row in 32 the size is one; beyond it, each is twice the one before."""
    least = pad_candidates(0, 10_000)
    assert least == pad_candidates(10_000 // 32 * LATER_BANDS.number, 10_000)
    assert pad_candidates(least + 1, 10_000) == 2 * least
    assert pad_candidates(2_560_000, 10_000) < 2 * 2_560_000
    assert pad_candidates(0, 1) == pad_candidates(0, 200)


def test_first_and_later_bands_are_different_elements() -> None:
    rows = [_build_row(chat("where is my new card", "billing", 1))]
    first, later = (compute_bands(NearDedup(), rows, bands) for bands in (FIRST_BANDS, LATER_BANDS))
    assert first.shape == (1, FIRST_BANDS.number)
    assert later.shape == (1, LATER_BANDS.number)
    assert int(first.max()) < int(later.min())


@given(st.integers(0, 10_000_000))
def test_padded_sizes_are_few_and_little_larger(count: int) -> None:
    size = pad_size(count)
    assert max(count, LEAST_ELEMENTS) <= size <= max(1.25 * count, LEAST_ELEMENTS)
    assert pad_size(size) == size


def test_elements_of_other_settings_are_others() -> None:
    bands = np.arange(3, dtype=np.uint64)
    own = encode_elements(bands, DecontaminationSettings())
    assert len(set(own)) == 3
    assert own == encode_elements(bands, DecontaminationSettings(max_rows=5))
    assert not set(own) & set(encode_elements(bands, DecontaminationSettings(size=4)))


def test_bands_are_counted_for_each_row_of_the_other_side_apart() -> None:
    """Four bands of one row and four of another are no near copy at seven; a match that is named twice counts once."""
    bands = (np.arange(3)[:, None] * 1000 + np.arange(BANDS)).astype(np.uint64)
    elements = np.unique(bands)
    seven = [(place, 5) for place in range(7)]
    apart = [(BANDS + place, 1 + place % 2) for place in range(8)]
    twice = [(2 * BANDS + place % 4, 9) for place in range(8)]
    matches = np.array(sorted({*seven, *apart, *twice}), dtype=np.int64)
    assert find_repeated_rows(bands, elements, matches, 7).tolist() == [True, False, False]
    none = np.zeros((0, 2), dtype=np.int64)
    assert find_repeated_rows(bands, elements, none, 7).tolist() == [False] * 3
