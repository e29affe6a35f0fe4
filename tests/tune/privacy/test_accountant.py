"""ε is counted as theory and other accountants count it, and never too low."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from luthier.core.errors import RecipeError
from luthier.tune.privacy import accountant
from luthier.tune.privacy.accountant import PrivacyAccount, find_noise

DP_ACCOUNTING = [
    (1.0, 0.01, 1000, 1e-5, 1.828243645591767),
    (0.8, 0.05, 300, 1e-6, 10.610436688124006),
    (2.0, 1.0, 10, 1e-5, 7.5112759312213635),
    (1.1, 0.004, 10000, 1e-5, 1.8410369138507827),
    (0.5, 0.02, 100, 1e-5, 9.693703635716467),
    (5.0, 0.2, 2000, 1e-6, 9.784807521556456),
    (0.5, 1.0, 100, 1e-5, 284.391849962063),
    (0.3, 0.05, 1000, 1e-5, 262.5831922847301),
    (0.15, 1.0, 10, 1e-5, 311.2237644666003),
]
"""What Google's dp-accounting 0.6 says (connected dots, the same grid); its pins exclude ours, so it does not run."""


@pytest.mark.parametrize(("noise", "sampling", "steps", "delta", "epsilon"), DP_ACCOUNTING)
def test_epsilon_is_that_of_dp_accounting(
    noise: float, sampling: float, steps: int, delta: float, epsilon: float
) -> None:
    assert PrivacyAccount.of(noise, sampling, steps).epsilon(delta) == pytest.approx(epsilon, rel=1e-7)


LITTLE_NOISE = [
    (0.1, 1000, 51347.683574),
    (0.05, 1000, 202696.357133),
    (0.05, 1, 284.3918494),
    (0.02, 1, None),
    (0.001, 10, None),
    (0.03, 100, None),
    (0.04, 10**6, None),
]
"""Noise, steps without sampling, and the exact ε at δ = 1e-5 of the one Gaussian that they are: where
log(Φ(μ/2 - ε/μ) - exp(ε) Φ(-μ/2 - ε/μ)) is log δ with μ = √steps / noise, by `log_ndtr`."""


@pytest.mark.parametrize(("noise", "steps", "epsilon"), LITTLE_NOISE)
def test_little_noise_is_answered_or_refused_on_a_bounded_grid(
    noise: float, steps: int, epsilon: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took up to half a minute and a gigabyte, and a loss of more than 709 nats in a step told an ε of 0."""
    points: list[int] = []
    transform, make = np.fft.rfft, accountant.compute_step_loss
    monkeypatch.setattr(np.fft, "rfft", lambda mass, size: (points.append(size), transform(mass, size))[1])
    monkeypatch.setattr(
        accountant, "compute_step_loss", lambda *given, **more: (points.append(0), make(*given, **more))[1]
    )
    if epsilon is None:
        with pytest.raises(RecipeError, match="so little noise gives no privacy"):
            PrivacyAccount.of(noise, 1.0, steps)
    else:
        told = PrivacyAccount.of(noise, 1.0, steps)
        assert epsilon * (1 - 1e-9) <= told.epsilon(1e-5) <= epsilon * 1.01
        assert max(len(told.removed.mass), len(told.added.mass)) <= accountant.MOST_POINTS
    assert len(points) <= 6
    assert max(points, default=0) <= accountant.MOST_POINTS


def test_grids_of_different_width_add_up_to_an_upper_bound() -> None:
    fine, coarse = PrivacyAccount.of(2.0, 1.0, 10), PrivacyAccount.of(0.1, 1.0, 1000)
    assert coarse.removed.interval > fine.removed.interval
    strength = math.sqrt(10 / 2.0**2 + 1000 / 0.1**2)  # of the one Gaussian that both are
    both = fine.join(coarse).epsilon(1e-5)
    assert coarse.epsilon(1e-5) < both < coarse.epsilon(1e-5) + fine.epsilon(1e-5)
    assert strength**2 / 2 + 4.26 * strength < both


def _delta_of_gaussian(epsilon: float, noise: float) -> float:
    """The exact δ of one Gaussian mechanism with sensitivity 1 (Balle and Wang 2018, theorem 5)."""
    half, scaled = 1 / (2 * noise), epsilon * noise
    return float(ndtr(half - scaled) - math.exp(epsilon) * ndtr(-half - scaled))


@settings(max_examples=8, deadline=None)
@given(st.floats(0.7, 8), st.integers(1, 50), st.floats(0.1, 3))
def test_without_sampling_delta_is_that_of_one_gaussian(noise: float, steps: int, epsilon: float) -> None:
    exact = _delta_of_gaussian(epsilon, noise / math.sqrt(steps))
    told = PrivacyAccount.of(noise, 1.0, steps).delta(epsilon)
    assert exact - 1e-11 <= told <= exact * 1.001 + 1e-9


def test_trainings_one_after_the_other_add_up() -> None:
    whole, half = PrivacyAccount.of(1.2, 0.05, 200), PrivacyAccount.of(1.2, 0.05, 100)
    assert half.join(half).epsilon(1e-5) == pytest.approx(whole.epsilon(1e-5), rel=1e-6)
    other = PrivacyAccount.of(3.0, 0.5, 10)
    both = half.join(other).epsilon(1e-5)
    assert max(half.epsilon(1e-5), other.epsilon(1e-5)) < both < half.epsilon(5e-6) + other.epsilon(5e-6)


@pytest.mark.parametrize(("epsilon", "sampling", "steps"), [(0.5, 0.02, 200), (3.0, 0.1, 50), (8.0, 1.0, 20)])
def test_the_noise_is_enough_and_hardly_more(epsilon: float, sampling: float, steps: int) -> None:
    noise = find_noise(epsilon, 1e-5, sampling, steps)
    assert PrivacyAccount.of(noise, sampling, steps).epsilon(1e-5) <= epsilon
    assert PrivacyAccount.of(noise - 0.003, sampling, steps).epsilon(1e-5) > epsilon


def test_epsilon_and_delta_are_each_others_inverse() -> None:
    account = PrivacyAccount.of(1.0, 0.02, 300)
    for delta in (1e-3, 1e-5, 1e-8):
        assert account.delta(account.epsilon(delta)) == pytest.approx(delta, rel=1e-6)
    assert account.epsilon(1e-30) == math.inf
    assert account.epsilon(0.9) == 0.0
