"""What every robust rule promises: documented, pure, blind to the order of sites, and not to be carried away."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from documented import undescribed
from luthier.core.component import components_by_kind
from luthier.federated.robust_rule import RobustRule

RULES = components_by_kind(RobustRule)
KINDS = sorted(RULES)


def build_changes(sites: int, seed: int = 1) -> Tensor:
    return torch.randn(sites, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_documented(kind: str) -> None:
    assert len(RULES[kind].summary()) > 20
    assert undescribed(RULES[kind]) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("poisoned", [1, 2])
def test_it_is_blind_to_the_order_of_sites_and_changes_nothing(kind: str, poisoned: int) -> None:
    rule = RULES[kind](kind=kind, poisoned=poisoned)
    changes = build_changes(rule.count_needed())
    before, found = changes.clone(), rule.combine(changes)
    assert torch.equal(changes, before)
    torch.testing.assert_close(rule.combine(changes.flip(0)), found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_sites_that_agree_are_taken_at_their_word(kind: str) -> None:
    rule = RULES[kind](kind=kind)
    one = build_changes(1)
    torch.testing.assert_close(rule.combine(one.expand(rule.count_needed(), -1).clone()), one[0])
    still = torch.zeros(rule.count_needed(), 5, dtype=torch.float64)
    assert torch.equal(rule.combine(still), still[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("poisoned", [1, 2, 3])
def test_so_many_poisoned_sites_move_it_no_further_than_honest_ones_lie_apart(kind: str, poisoned: int) -> None:
    rule = RULES[kind](kind=kind, poisoned=poisoned)
    changes = build_changes(rule.count_needed() + 2) + 3.0
    honest = changes[poisoned:].mean(0)
    apart = float((changes[poisoned:] - honest).norm(dim=1).max())
    for poison in (1e9, -1e9):
        changes[:poisoned] = poison
        assert float((rule.combine(changes) - honest).norm()) < 3.2 * apart  # a bound on norms lets a part through
        assert float((changes.mean(0) - honest).norm()) > 1e6


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_sites_are_refused(kind: str) -> None:
    rule = RULES[kind](kind=kind, poisoned=2)
    assert "bears 2 poisoned sites of" in rule.check_count(rule.count_needed() - 1)
    assert rule.check_count(rule.count_needed()) == ""
