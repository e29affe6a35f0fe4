"""What every part that stays at a site promises: documented, described in a plan, and either kept or trained there."""

from __future__ import annotations

import pytest

from documented import undescribed
from luthier.core.component import components_by_kind
from luthier.federated.aggregators.mean import MeanAggregator
from luthier.federated.personal.part import PersonalPart
from luthier.tune.steps.tune import Tune

PARTS = components_by_kind(PersonalPart)
KINDS = sorted(PARTS)
NAMES = ("layers.0.q_proj.lora_A.default.weight", "layers.0.q_proj.lora_B.default.weight", "score.weight")
TUNE = Tune.model_validate(
    {"data": "data", "technique": "lora", "objective": {"kind": "classify", "head": "sequence"}}
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_documented_and_tells_what_stays(kind: str) -> None:
    assert len(PARTS[kind].summary()) > 20
    assert undescribed(PARTS[kind]) == []
    assert "never travels" in PARTS[kind](kind=kind).describe(TUNE, None)


@pytest.mark.parametrize("kind", KINDS)
def test_it_stays_or_is_trained_there_and_something_travels(kind: str) -> None:
    part = PARTS[kind](kind=kind)
    kept = [name for name in NAMES if part.keeps(name)]
    assert bool(kept) != (part.build_tune(TUNE) is not None)
    assert len(kept) < len(NAMES)


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_travels_than_without_it(kind: str) -> None:
    part, mean = PARTS[kind](kind=kind), MeanAggregator()
    whole, left = mean.count_numbers(10, 20, 3, 4), part.count_numbers(mean, 10, 20, 3, 4)
    assert left.up <= whole.up
    assert left.down <= whole.down


@pytest.mark.parametrize("kind", KINDS)
def test_a_usual_training_has_it(kind: str) -> None:
    part = PARTS[kind](kind=kind)
    assert part.find_obstacle(TUNE, MeanAggregator(), None) == ""
