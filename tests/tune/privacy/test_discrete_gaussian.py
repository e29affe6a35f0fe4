"""Discrete Gaussian noise has exactly the distribution that it should have."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from luthier.tune.privacy import discrete_gaussian
from luthier.tune.privacy.discrete_gaussian import draw_discrete_gaussian
from luthier.tune.privacy.noise import NoiseKey

KEY = NoiseKey(b"a key of these tests")


@pytest.mark.parametrize("deviation", [1, 2, 3, 7, 50])
def test_small_numbers_have_their_probabilities(deviation: int) -> None:
    count = 200_000
    drawn = draw_discrete_gaussian(KEY, "small", count, deviation)
    ends = np.arange(-12 * deviation, 12 * deviation + 1)
    expected = np.exp(-(ends.astype(float) ** 2) / (2 * deviation**2))
    expected *= count / expected.sum()
    seen = np.bincount(drawn + 12 * deviation, minlength=len(ends)).astype(float)
    common = expected > 20
    observed, wanted = np.append(seen[common], seen[~common].sum()), np.append(
        expected[common], expected[~common].sum()
    )  # fmt: skip
    assert seen.sum() == count
    assert chisquare(observed, wanted).pvalue > 1e-3


@pytest.mark.parametrize("deviation", [1 << 30, 1_234_567_891_011, (1 << 56) - 1])
def test_large_numbers_are_normal_down_to_their_last_bits(deviation: int) -> None:
    drawn = draw_discrete_gaussian(KEY, "large", 100_000, deviation)
    assert kstest(drawn / deviation, "norm").pvalue > 1e-3
    for bit in (0, 1, 10):
        ones = int(((drawn >> bit) & 1).sum())
        assert abs(ones - 50_000) < 4 * math.sqrt(25_000)


@pytest.mark.parametrize("deviation", [1, 3, 1_000_003, 1 << 40])
def test_decisions_in_floating_point_are_the_exact_ones(deviation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = draw_discrete_gaussian(KEY, "same", 1500, deviation)
    monkeypatch.setattr(discrete_gaussian, "_MARGIN", 2.0**33)  # nothing is certain but by decimals
    assert np.array_equal(draw_discrete_gaussian(KEY, "same", 1500, deviation), quick)


def test_a_decision_at_the_border_takes_further_bits() -> None:
    half = Fraction(69314718055994530941723212145818, 10**32)  # ln 2 to 32 digits: exp(-h) is just above 1/2
    border = 1 << 31
    below = [discrete_gaussian._is_below(KEY, f"at/{at}", border - 1, half) for at in range(20)]
    above = [discrete_gaussian._is_below(KEY, f"at/{at}", border + 1, half) for at in range(20)]
    at_it = [discrete_gaussian._is_below(KEY, f"at/{at}", border, half) for at in range(20)]
    assert (all(below), any(above), any(at_it)) == (True, False, False)
    third = Fraction(1, 3)
    border = int(math.exp(-1 / 3) * 2**32)
    decided = sum(discrete_gaussian._is_below(KEY, f"third/{at}", border, third) for at in range(2000))
    share = math.exp(-1 / 3) * 2**32 - border
    assert decided / 2000 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 2000))


def test_numbers_follow_from_key_and_label() -> None:
    one = draw_discrete_gaussian(KEY, "one", 1000, 1 << 20)
    assert np.array_equal(draw_discrete_gaussian(KEY, "one", 1000, 1 << 20), one)
    assert not np.array_equal(draw_discrete_gaussian(KEY, "two", 1000, 1 << 20), one)
    assert not np.array_equal(draw_discrete_gaussian(NoiseKey(b"other"), "one", 1000, 1 << 20), one)
    many = draw_discrete_gaussian(KEY, "many", discrete_gaussian._BLOCK + 10, 8)
    assert len(many) == discrete_gaussian._BLOCK + 10
    for deviation in (0, 1 << 57):
        with pytest.raises(ValueError, match="deviation of 1 to 2"):
            draw_discrete_gaussian(KEY, "x", 1, deviation)
