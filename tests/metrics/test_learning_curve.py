"""Laws of learning curves agree with SciPy's fits, and what they foretell is bounded, deterministic and honest."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import curve_fit

from luthier.metrics.learning_curve import (
    LAWS,
    CurveLaw,
    fit_curves,
    fit_law,
    forecast_curve,
    forecast_errors,
)

COUNTS = np.array([100.0, 200, 300, 400, 600, 800])
BY_NAME = {law.name: law for law in LAWS}
TRUE = {
    "power": (0.7,),
    "shifted power": (0.9, 0.2),
    "Weibull": (1.5, 0.6),
    "Morgan-Mercer-Flodin": (3.0, 1.2),
    "logarithm": (),
}


def _curve(law: CurveLaw, counts: np.ndarray, floor: float = 0.08, scale: float = 0.3) -> np.ndarray:
    return floor + scale * law.shape(counts / COUNTS[-1], *TRUE[law.name])


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_each_law_foretells_what_scipy_foretells(law: CurveLaw) -> None:
    noise = np.random.default_rng(4).normal(0, 0.0002, len(COUNTS))
    measured = _curve(law, COUNTS, scale=0.05 if law.name == "logarithm" else 0.3) + noise
    [found] = fit_law(law, COUNTS, measured[None]).predict(np.array([800.0, 1600.0]))

    def whole(rows: np.ndarray, floor: float, scale: float, *parameters: float) -> np.ndarray:
        return floor + scale * law.shape(rows / COUNTS[-1], *parameters)

    low = [0.0 if law.grid else -np.inf, 0.0, *(values[0] for values in law.grid)]
    high = [np.inf, np.inf, *(values[-1] for values in law.grid)]
    start = [0.08, 0.2, *TRUE[law.name]]
    theirs, _ = curve_fit(whole, COUNTS, measured, p0=start, bounds=(low, high), max_nfev=20_000)
    assert found == pytest.approx(whole(np.array([800.0, 1600.0]), *theirs), abs=0.01)
    ours = float(((fit_law(law, COUNTS, measured[None]).predict(COUNTS)[0] - measured) ** 2).sum())
    assert ours <= float(((whole(COUNTS, *theirs) - measured) ** 2).sum()) + len(COUNTS) * 0.002**2


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_a_fit_never_rises_and_keeps_its_floor(law: CurveLaw) -> None:
    curves = np.random.default_rng(1).uniform(0, 0.5, size=(40, len(COUNTS)))
    fitted = fit_law(law, COUNTS, curves)
    assert (fitted.scale >= 0).all()
    assert (np.diff(fitted.predict(np.array([100.0, 400, 800, 5000])), axis=1) <= 1e-12).all()
    if law.grid:
        assert (fitted.floor >= 0).all()


def test_the_average_follows_the_law_that_foretold_the_largest_sizes() -> None:
    for law in LAWS[:3]:
        fit = fit_curves(COUNTS, _curve(law, COUNTS)[None], noise=0.001)
        best = fit.laws[int(fit.weights[:, 0].argmax())].law.name
        assert best == law.name or fit.weights[[one.law.name for one in fit.laws].index(law.name), 0] > 0.15
        assert fit.predict([1600])[0, 0] == pytest.approx(_curve(law, np.array([1600.0]))[0], abs=0.01)
        assert fit.weights.sum() == pytest.approx(1)


def test_a_power_law_is_read_back() -> None:
    counts = np.array([100.0, 200, 400, 800, 1600])
    for floor, scale, power in ((0.0, 3.0, 0.5), (0.1, 2.0, 0.4), (0.02, 9.0, 0.7)):
        curve = floor + scale * counts**-power
        truth = curve[-1] - (floor + scale * 3200.0**-power)
        assert fit_curves(counts, curve[None]).drop(3200)[0] == pytest.approx(truth, rel=0.15)


def test_a_flat_or_rising_loss_promises_nothing() -> None:
    curves = np.array([[0.2] * 6, [0.1, 0.12, 0.14, 0.16, 0.18, 0.2]])
    assert fit_curves(COUNTS, curves).drop(1600).max() < 1e-9
    forecast = forecast_curve(COUNTS, curves[1][:, None], np.repeat(curves[1][None, :, None], 50, axis=0))
    assert forecast.drop(1600).value == 0
    assert math.isinf(forecast.rows_until(0.05).value)


def test_rows_until_a_target_and_what_is_never_reached() -> None:
    curve = 0.05 + 0.3 * (COUNTS / 800) ** -0.6
    forecast = forecast_curve(COUNTS, curve[:, None], np.repeat(curve[None, :, None], 100, axis=0), seed=3)
    wanted = 0.05 + 0.3 * 2**-0.6
    rows = forecast.rows_until(wanted)
    assert rows.low <= rows.value <= rows.high
    assert rows.value == pytest.approx(1600, rel=0.15)
    assert math.isinf(forecast.rows_until(0.01).value)
    assert forecast.rows_until(0.5).value == 800
    assert forecast.chance_within(0.5, 1600) == 1
    assert forecast.chance_within(0.01, 1600) == 0


def test_a_loss_without_a_best_value_may_fall_below_zero() -> None:
    curve = -1.0 - 0.2 * np.log(COUNTS / 800)
    fit = fit_curves(COUNTS, curve[None], least=-math.inf)
    assert fit.predict([1600])[0, 0] == pytest.approx(-1 - 0.2 * math.log(2), abs=0.02)


def test_the_same_answers_foretell_the_same() -> None:
    wrong = np.random.default_rng(2).random((4, 3, 60)) < np.array([0.5, 0.4, 0.3, 0.25])[:, None, None]
    counts = np.array([50.0, 100, 200, 400])
    first, second = (forecast_errors(counts, wrong, seed=5) for _ in range(2))
    assert first.drop(800) == second.drop(800)
    low, value, high = first.drop(800).low, first.drop(800).value, first.drop(800).high
    assert 0 <= low <= value <= high <= 0.25 + 0.2


def test_fewer_than_three_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        fit_curves(COUNTS[:2], np.array([[0.3, 0.2]]))


def test_three_sizes_are_fitted_without_a_look_back() -> None:
    counts = np.array([100.0, 200, 400])
    assert fit_curves(counts, np.array([[0.4, 0.3, 0.23]])).drop(800)[0] > 0.02
