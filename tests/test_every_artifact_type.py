"""Every artifact type says what it is, and every step of ours makes and reads one that is known."""

from __future__ import annotations

import pytest

from documented import undescribed
from luthier.core.artifact import ArtifactType
from luthier.core.component import components_by_kind
from luthier.core.step import Step

TYPES = components_by_kind(ArtifactType)
STEPS = {kind: step for kind, step in components_by_kind(Step).items() if step.__module__.startswith("luthier.")}


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_it_is_documented_and_comes_back(kind: str) -> None:
    found = ArtifactType.parse(kind)
    assert len(type(found).summary()) > 20
    assert undescribed(type(found)) == []
    assert ArtifactType.parse(found.settings()) == found


@pytest.mark.parametrize("kind", sorted(STEPS))
def test_every_step_makes_and_reads_known_types(kind: str) -> None:
    assert {STEPS[kind].makes, *(mark.makes for mark in STEPS[kind].reads().values())} <= set(TYPES)


def test_every_type_is_made_by_a_step() -> None:
    ours = {kind for kind, found in TYPES.items() if found.__module__.startswith("luthier.")}
    assert {step.makes for step in STEPS.values()} == ours
