"""Which rows count as near copies: chances as promised, padded sizes, and bands counted row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.federated.decontamination.bands import (
    LEAST_ELEMENTS,
    encode_elements,
    find_repeated_rows,
    pad_size,
)
from luthier.federated.decontamination.settings import BANDS, DecontaminationSettings


@pytest.mark.parametrize("threshold", [0.7, 0.8, 0.85, 0.9, 0.95, 1.0])
def test_a_pair_at_the_threshold_is_overlooked_once_in_a_hundred(threshold: float) -> None:
    """By drawing signatures whose columns agree with the chance that they have."""
    settings = DecontaminationSettings(threshold=threshold)
    draws = np.random.default_rng(1).random((20_000, BANDS, 4)) < threshold + (1 - threshold) / 256
    found = (draws.all(axis=2).sum(axis=1) >= settings.shared_bands).mean()
    assert found >= 0.985
    assert settings.find_chance(threshold) == pytest.approx(found, abs=0.004)
    assert settings.find_chance(threshold) >= 0.99
    assert settings.find_chance(0.3) < 0.01


def test_strangers_are_rarely_left_out_at_the_usual_threshold() -> None:
    settings = DecontaminationSettings()
    assert settings.shared_bands == 7
    assert settings.find_chance(0.9) > 0.99999
    assert settings.find_chance(0.5) < 0.004
    assert settings.find_chance(0.4) < 1e-4


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
