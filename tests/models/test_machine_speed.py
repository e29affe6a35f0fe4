"""How quick this machine is: every probe counts, so that one slow second tells little."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.core.step import PlanContext
from luthier.core.timings import KEPT, record_timing
from luthier.models import cost


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache without probes, one processor, and a probe for each question."""
    monkeypatch.setattr(cost, "_PROBE_AGE_S", -1.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def told(monkeypatch: pytest.MonkeyPatch, probe: float) -> float:
    """Operations a second as they are told when a probe comes to so many."""
    monkeypatch.setattr(cost, "_matrix_flops", lambda: probe)
    return cost.measure_flops_per_s(bf16=False) / cost.FP32_GAIN


def test_a_slow_second_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, 400.0) == pytest.approx(400.0)
    assert told(monkeypatch, 100.0) == pytest.approx(160.0), "half of the work at 400, half at 100"
    for _ in range(KEPT + 1):
        last = told(monkeypatch, 200.0)
    assert last == pytest.approx(200.0), "the oldest are forgotten"


def test_a_probe_of_the_last_seconds_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_PROBE_AGE_S", 60.0)
    monkeypatch.setattr(cost, "_probes", {})
    assert told(monkeypatch, 400.0) == told(monkeypatch, 100.0)


def test_reading_has_probes_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, 400.0)
    monkeypatch.setattr(cost, "_read_bytes", lambda: 10.0)
    assert cost.measure_memory_bandwidth() == pytest.approx(10.0)
    monkeypatch.setattr(cost, "_read_bytes", lambda: 30.0)
    assert cost.measure_memory_bandwidth() == pytest.approx(15.0)


def test_what_is_no_probe_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    record_timing("product", {"per_s": 0.0})
    record_timing("product", {})
    assert told(monkeypatch, 300.0) == pytest.approx(300.0)


@pytest.mark.parametrize(("has_tiles", "gain"), [(True, cost.TILES_GAIN), (False, cost.BF16_GAIN)])
def test_narrow_products_gain_by_what_the_processor_has(
    monkeypatch: pytest.MonkeyPatch, has_tiles: bool, gain: float
) -> None:
    """On an AMD EPYC without tiles, a training was told to take one and a half times as long as it took."""
    monkeypatch.setattr(cost, "cpu_has_amx", lambda: has_tiles)
    monkeypatch.setattr(cost, "_matrix_flops", lambda: 100.0)
    told = cost.measure_flops_per_s(bf16=True)
    assert told == pytest.approx(gain / cost.FP32_GAIN * cost.measure_flops_per_s(bf16=False))


def test_a_gpu_is_assumed_to_be_quicker_until_a_step_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "has_gpu", lambda: True)
    assert cost.measure_flops_per_s(bf16=True) == cost.GPU_FLOPS_PER_S


def context(tmp_path: Path, *paces: dict[str, float | str]) -> PlanContext:
    return PlanContext(inputs={}, upstream={}, recipe_dir=tmp_path, paces=paces)


def test_models_of_other_sizes_are_compared_at_the_speed_that_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small model measured on a busy machine was told to be slower than a larger one whose speed was assumed."""
    monkeypatch.setattr(cost, "_matrix_flops", lambda: 1e13)
    small, large = cost._build_typical_model(135_000_000), cost._build_typical_model(500_000_000)
    paces = context(tmp_path, {"step": "tune", "parameters": 135e6, "flops_per_s": 1e11})
    measured, scaled = (cost.find_model_speed(paces, model, bf16=False) for model in (small, large))
    assert measured.how == "as the last tune step on this machine"
    assert measured.measures
    assert scaled.flops_per_s == measured.flops_per_s == pytest.approx(1e11)
    assert (
        scaled.how
        == "of the last step with a model of 135M parameters on this machine, as none of this size was measured"
    )
    assert not scaled.measures
    assert small.parameters / measured.flops_per_s < large.parameters / scaled.flops_per_s


def test_the_nearest_size_counts_and_a_toy_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_matrix_flops", lambda: 1e13)
    model = cost._build_typical_model(500_000_000)
    far, near, toy = (
        {"step": "tune", "parameters": size, "flops_per_s": speed}
        for size, speed in ((7e9, 3e11), (135e6, 1e11), (1e5, 1e9))
    )
    assert cost.find_model_speed(context(tmp_path, far, near), model, bf16=False).flops_per_s == pytest.approx(1e11)
    assert "assumed" in cost.find_model_speed(context(tmp_path, toy), model, bf16=False).how
