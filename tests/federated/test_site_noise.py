"""What sites' integers with discrete Gaussian noise give away is never more than is told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from federations import Sites
from luthier.core.errors import RecipeError
from luthier.core.step import PlanContext
from luthier.federated.privacy import (
    LEAST_DEVIATION,
    SMOOTHING,
    average_clipped_updates,
    bound_lattice_slack,
    clip_change,
    cut_change,
    encode_change,
    find_noise_obstacle,
    find_share_deviation,
)
from luthier.federated.secure_aggregation.masks import MaskSettings, compute_scale
from luthier.tune.privacy.accountant import PrivacyAccount
from luthier.tune.privacy.noise import NoiseKey


def density(deviation: float, reach: int) -> np.ndarray[Any, Any]:
    """Probabilities of a discrete Gaussian on -reach … reach."""
    found = np.exp(-(np.arange(-reach, reach + 1, dtype=float) ** 2) / (2 * deviation**2))
    return np.asarray(found / found.sum())


def sum_of(deviation: float, shares: int, reach: int) -> np.ndarray[Any, Any]:
    """Probabilities of the sum of so many."""
    one = density(deviation, reach)
    total = one
    for _ in range(shares - 1):
        total = np.convolve(total, one)
    middle = len(total) // 2
    return total[middle - reach : middle + reach + 1]


def lose(with_site: np.ndarray[Any, Any], without: np.ndarray[Any, Any], epsilon: float) -> float:
    """δ at ε, both ways."""
    one = np.maximum(with_site - math.exp(epsilon) * without, 0).sum()
    other = np.maximum(without - math.exp(epsilon) * with_site, 0).sum()
    return float(max(one, other))


DP_ACCOUNTING = [
    (64, 32, 1, 1.9931180523487826),
    (64, 32, 5, 4.983518469060943),
    (128, 128, 1, 4.377229649623193),
    (128, 128, 5, 11.480248550366277),
    (200, 100, 5, 4.983308167690348),
    (1000, 400, 5, 3.8486120867992284),
]
"""ε at δ = 1e-5 of rounds of a discrete Gaussian by Google's dp-accounting 0.6 (`from_discrete_gaussian_mechanism`)."""


@pytest.mark.parametrize(("deviation", "length", "rounds", "epsilon"), DP_ACCOUNTING)
def test_what_is_told_is_never_below_dp_accounting(deviation: int, length: int, rounds: int, epsilon: float) -> None:
    multiplier = math.sqrt(deviation**2 - SMOOTHING**2) / length
    assert deviation <= find_share_deviation(multiplier, length, 1) <= deviation + 1
    told = PrivacyAccount.of(multiplier, 1.0, rounds).epsilon(1e-5)
    assert epsilon <= told <= epsilon * 1.003


@pytest.mark.parametrize("shares", [1, 3, 5])
@pytest.mark.parametrize("multiplier", [1.0, 2.5])
def test_what_is_told_covers_the_exact_loss_of_a_number(shares: int, multiplier: float) -> None:
    length = 200  # of the clipped change, in units of the ring
    own = find_share_deviation(multiplier, length, shares)
    reach = round(9 * own * math.sqrt(shares)) + length
    noise = sum_of(own, shares, reach)
    moved, still = np.append(np.zeros(length), noise), np.append(noise, np.zeros(length))
    account = PrivacyAccount.of(multiplier, 1.0, 1)
    for epsilon in (0.2, 0.5, 1.0, 2.0):
        exact, told = lose(moved, still, epsilon), account.delta(epsilon)
        assert exact <= told + 1e-12
        if told > 1e-3:
            assert exact == pytest.approx(told, rel=0.05), "hardly more noise than is needed"


def test_what_is_told_covers_the_exact_loss_of_a_vector_and_of_two_rounds() -> None:
    own = find_share_deviation(1.5, 100, 4)
    reach = 8 * 2 * own + 100
    noise = sum_of(own, 4, reach)
    both = []
    for shift in (60, 80):  # a vector of length 100
        moved, still = np.append(np.zeros(shift), noise), np.append(noise, np.zeros(shift))
        within = (moved > 1e-300) & (still > 1e-300)
        both.append((moved[within], np.log(moved[within] / still[within])))
    losses = np.add.outer(both[0][1], both[1][1])
    chances = np.multiply.outer(both[0][0], both[1][0])
    for epsilon in (0.3, 1.5):
        exact = float((chances * -np.expm1(np.minimum(epsilon - losses, 0))).sum())
        assert exact <= PrivacyAccount.of(1.5, 1.0, 1).delta(epsilon) + 1e-12
    [(chance, loss)] = [both[0]]
    twice, chances = np.add.outer(loss, loss), np.multiply.outer(chance, chance)
    account = PrivacyAccount.of(1.5 / 0.6, 1.0, 2)
    for epsilon in (0.3, 1.0):
        assert float((chances * -np.expm1(np.minimum(epsilon - twice, 0))).sum()) <= account.delta(epsilon) + 1e-12


@pytest.mark.parametrize("deviation", [0.5, 0.6, 0.8, 1.0])
@pytest.mark.parametrize("shares", [2, 3, 6])
def test_sums_of_shares_are_as_near_to_one_draw_as_the_bound_says(deviation: float, shares: int) -> None:
    reach = 6
    several = sum_of(deviation, shares, 30)[30 - reach : 30 + reach + 1]
    single = density(math.sqrt(shares) * deviation, 30)[30 - reach : 30 + reach + 1]
    worst = float(np.abs(np.log(several / single)).max())
    bound = bound_lattice_slack(deviation, shares, 4.0)
    assert worst <= bound + 1e-12
    assert deviation > 0.6 or worst > bound / 1e3, "the bound is no mere large number"


@pytest.mark.parametrize("smoothing", [0.5, 0.6])
def test_gaussian_noise_rounded_at_random_is_as_near_to_the_integers_as_the_bound_says(smoothing: float) -> None:
    wide, reach = 2.0, 8
    places = np.linspace(-24, 24, 96_001)
    near = np.arange(-40, 41)
    weights = np.exp(-((near[:, None] - places[None, :]) ** 2) / (2 * smoothing**2))
    gaussian = np.exp(-(places**2) / (2 * wide**2)) / math.sqrt(2 * math.pi) / wide
    rounded = (weights / weights.sum(0) * gaussian).sum(1) * (places[1] - places[0])
    exact = density(math.hypot(wide, smoothing), 40)
    worst = float(np.abs(np.log(rounded / exact))[40 - reach : 41 + reach].max())
    assert worst <= bound_lattice_slack(100.0, 1, smoothing) + 1e-9
    assert worst > 1e-7


def test_at_the_least_deviation_nothing_is_left_of_the_slack() -> None:
    assert bound_lattice_slack(LEAST_DEVIATION, 1000) < 1e-130
    for shares in (1, 7):
        own = find_share_deviation(1.0, 1 << 30, shares)
        assert shares * own**2 >= (1 << 60) + 16
        assert own <= (1 << 30) / math.sqrt(shares) * (1 + 1e-6) + 1
    assert find_share_deviation(0.0, 1 << 30, 3) == 0
    assert find_share_deviation(1e-9, 1 << 10, 3) == LEAST_DEVIATION


def test_integers_of_a_change_are_never_longer_than_its_clip() -> None:
    chance = torch.Generator().manual_seed(2)
    for clip in (1.0, 0.3, 1e-3):
        change = {"a": torch.randn(500, generator=chance, dtype=torch.float64)}
        numbers = cut_change(clip_change(change, clip), clip, 1 << 50)
        length = math.isqrt(sum(int(value) ** 2 for value in numbers))
        assert clip * 2**50 * (1 - 1e-9) < length < clip * 2**50
        longer = cut_change({"a": change["a"] * (clip * (1 + 1e-12) / change["a"].norm())}, clip, 1 << 50)
        assert sum(int(value) ** 2 for value in longer) <= (clip * 2**50) ** 2


def test_a_site_adds_integers_of_its_own_and_the_coordinator_those_of_all() -> None:
    change, settings = {"a": torch.tensor([0.3, -0.4], dtype=torch.float64)}, MaskSettings()
    scale = compute_scale(settings, 4)
    found = encode_change(change, settings, 4, 0.5, 0.5, 3, NoiseKey(b"k"), "x").view(np.int64)
    again = encode_change(change, settings, 4, 0.5, 0.5, 3, NoiseKey(b"k"), "x").view(np.int64)
    assert np.array_equal(found, again)
    assert list(found[2:]) == [0, 1]
    plain = encode_change(change, settings, 4, 0.5, 0.0, 3, NoiseKey(b"k"), "x").view(np.int64)
    assert list(plain[:2]) == [int(0.3 * scale), -int(0.4 * scale)]
    many = {"a": torch.zeros(40_000, dtype=torch.float64)}
    mean = average_clipped_updates([many, many], 2, 0.5, 3.0, NoiseKey(b"k"), "x")["a"]
    assert float(mean.std()) == pytest.approx(1.5, rel=0.02)
    assert torch.equal(mean * 2.0**60, (mean * 2.0**60).round()), "on one grid"


def test_a_plan_says_that_noise_has_no_room_in_the_ring(sites: Sites) -> None:
    def plan(clip: float, **masks: Any) -> str:
        privacy = {"unit": "site", "epsilon": 1.0, "delta": 1e-2, "clip": clip}
        step = sites.step(rounds=1, sum="ffa", privacy=privacy, secure=masks)
        return step.estimate_cost(PlanContext(inputs={}, upstream={}, recipe_dir=sites.base.folder)).statement

    assert "updates are masked" in plan(0.1)
    with pytest.raises(RecipeError, match="does not fit in the ring"):
        plan(1e9)
    with pytest.raises(RecipeError, match="units of the ring: set a larger clip or smaller bounds"):
        plan(1e-7, bound=1e6, rows=1 << 30)
    with pytest.raises(ValidationError):
        plan(0.0)
    assert find_noise_obstacle(MaskSettings(), 4, 0.1, 0.0, 4) == ""
