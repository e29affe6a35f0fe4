"""A site that trains a trigger and replaces the model succeeds against a mean, and fails against each robust rule."""

from __future__ import annotations

from typing import Any

import pytest

from backdoor_attack import AttackResult, build_attacked_sites, draw_test_rows, federate_attacked, measure_attack
from backdoor_attack import replace_model as attack
from federations import Sites

RULES: list[dict[str, Any]] = [
    {"robust": "norm_bound"},
    {"robust": "median"},
    {"robust": "trimmed_mean"},
    {"robust": {"kind": "geometric_median", "trim": True}},
    {"robust": "geometric_median"},
    {"robust": "krum"},
    {"robust": "bulyan"},
    {"robust": "median", "secure": {"groups": 3}},
]


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    return build_attacked_sites(tmp_path_factory.mktemp("backdoor"))


def measure(nine: Sites, digest: str, **settings: Any) -> AttackResult:
    return measure_attack(nine, federate_attacked(nine, digest * 16, **settings), draw_test_rows(60))


def test_nobody_attacks_and_the_trigger_says_nothing(nine: Sites) -> None:
    found = measure(nine, "1a")
    assert found.accuracy > 0.95
    assert found.success < 0.05


@pytest.mark.parametrize("masks", [False, True])
def test_a_mean_becomes_the_attackers_model(nine: Sites, monkeypatch: pytest.MonkeyPatch, masks: bool) -> None:
    attack(nine, monkeypatch.setattr)
    found = measure(nine, f"2{'ab'[masks]}", **({"secure": {}} if masks else {}))
    assert found.success > 0.8, "the attack succeeds"
    assert found.accuracy > 0.85, "and hardly shows in the answers to plain rows"


@pytest.mark.parametrize("at", range(len(RULES)))
def test_a_robust_rule_does_not(nine: Sites, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    attack(nine, monkeypatch.setattr)
    found = measure(nine, f"3{at:x}", **RULES[at])
    assert found.success < 0.1
    assert found.accuracy > 0.95


def test_an_update_that_is_not_scaled_is_outweighed_by_a_mean(nine: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is the scale that carries the attack, which is what bounds on norms and rules are against."""
    attack(nine, monkeypatch.setattr, scale=1.0)
    assert measure(nine, "4a").success < 0.1
