"""The learning rate over a run: closed forms, and what goes with which optimizer."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.tune.steps.tune import Tune
from luthier.tune.training.schedule import Shape, compute_lr_factor, count_warmup_steps

SHAPES = get_args(Shape)


def rates(shape: Shape, steps: int = 10, warmup: float = 0.2, decay: float = 0.4) -> list[float]:
    rising = count_warmup_steps(steps, warmup)
    return [compute_lr_factor(step, steps, shape, rising, decay) for step in range(steps)]


def test_the_shapes_are_their_closed_forms() -> None:
    up = [0.5, 1.0]
    assert rates("linear") == pytest.approx(up + [1 - k / 8 for k in range(8)])
    assert rates("cosine") == pytest.approx(up + [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)])
    assert rates("constant") == up + [1.0] * 8
    assert rates("wsd") == pytest.approx(up + [1.0] * 4 + [1 - math.sqrt(k / 4) for k in range(4)])
    assert rates("wsd", warmup=0, decay=1) == pytest.approx([1 - math.sqrt(k / 10) for k in range(10)])


@given(st.sampled_from(SHAPES), st.integers(1, 400), st.floats(0, 0.5), st.floats(0.01, 0.5))
def test_the_rate_rises_then_never_rises_again_and_is_never_zero(
    shape: Shape, steps: int, warmup: float, decay: float
) -> None:
    found = rates(shape, steps, warmup, decay)
    top = found.index(max(found))
    assert max(found) == 1.0
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert min(found) > 0


@pytest.mark.parametrize("steps", range(3, 12))
def test_a_short_run_falls_too(steps: int) -> None:
    """A fifth of fewer than eight steps is one, and the first step of a fall has the full rate still."""
    assert rates("wsd", steps, 0.03, 0.2)[-1] == pytest.approx(1 - math.sqrt(1 / 2))
    assert rates("wsd", steps, 0.0, 0.01)[-2:] == pytest.approx([1, 1 - math.sqrt(1 / 2)])


def test_an_averaging_optimizer_keeps_the_rate_constant() -> None:
    assert Tune(data="data").shape == "linear"
    assert Tune(data="data", optimizer="schedule_free").shape == "constant"
    assert Tune(data="data", optimizer="schedule_free", lr_scheduler="constant").shape == "constant"


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"optimizer": "schedule_free", "lr_scheduler": "cosine"},
        "wants a constant learning rate, got lr_scheduler 'cosine'",
    ),
    ({"decay": 0.1}, "decay belongs to `lr_scheduler: wsd`, got 'auto'"),
    (
        {"lr_scheduler": "wsd", "decay": 0.9, "warmup_ratio": 0.2},
        "warmup_ratio and decay are 1.1 of all steps together",
    ),
]


@pytest.mark.parametrize(("fields", "said"), WRONG)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Tune(data="data", **fields)
