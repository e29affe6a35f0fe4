"""Advantages by the papers' formulae, frozen numbers beside TRL's live ones in `tests/oracles/test_policies.py`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from luthier.models.packing.pack import TokenRow, build_pack
from luthier.tune.policy import (
    average_row_log_ratio,
    compute_clipped_loss,
    estimate_kl,
    mark_clipped_tokens,
    truncate_importance_ratio,
)
from luthier.tune.rollout.scores import RolloutBatch
from policies import Script, policy_of

SCORES = [[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 5.0]]
LENGTHS = np.array([[2, 1, 3, 1], [1, 1, 1, 2]])


def judged(scores: list[list[float]] = SCORES, kl: list[list[float]] | None = None) -> RolloutBatch:
    return RolloutBatch(np.array(scores), LENGTHS, kl)


def advantages(kind: str, given: RolloutBatch, **fields: object) -> list[list[float]]:
    return policy_of(kind, Script.drawn(2, 4), **fields).advantages(given)


def firsts(found: list[list[float]]) -> list[float]:
    return [some[0] for some in found]


def test_grpo_is_the_distance_from_the_groups_mean_over_its_deviation() -> None:
    found = advantages("grpo", judged())
    half, one = 0.5 / (math.sqrt(1 / 3) + 1e-4), 1.5 + 1e-4
    wanted = [half, -half, -half, half, -0.75 / one, -0.75 / one, -0.75 / one, 2.25 / one]
    assert firsts(found) == pytest.approx(wanted, abs=1e-12)
    assert [len(some) for some in found] == LENGTHS.ravel().tolist()
    assert firsts(advantages("grpo", judged(), scale_rewards="none")) == [
        0.5,
        -0.5,
        -0.5,
        0.5,
        -0.75,
        -0.75,
        -0.75,
        2.25,
    ]


def test_rloo_is_the_distance_from_the_mean_of_the_others() -> None:
    found = firsts(advantages("rloo", judged()))
    assert found == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3, -1.0, -1.0, -1.0, 3.0])
    holed = firsts(advantages("rloo", judged([[1.0, 0.0, math.nan, 1.0], [math.nan, math.nan, 2.0, math.nan]])))
    assert found[4:] != holed[4:]
    assert holed == pytest.approx([0.5, -1.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0])


def test_divergence_is_taken_off_the_reward_of_the_whole_answer_or_of_what_is_to_come() -> None:
    costs = [[0.1] * int(length) for length in LENGTHS.ravel()]
    assert judged(kl=costs).rewards[0].tolist() == pytest.approx([0.8, -0.1, -0.3, 0.9])
    found = advantages("reinforce++", judged(kl=costs))
    spread = found[0][1] - found[0][0]
    assert spread > 0  # less is still to come
    assert found[2][2] - found[2][1] == pytest.approx(spread)
    tokens = np.array([value for some in found for value in some])
    assert (tokens.mean(), tokens.std(ddof=1)) == pytest.approx((0.0, 1.0), abs=1e-6)


def test_the_best_are_kept_and_of_equal_ones_the_first() -> None:
    assert firsts(advantages("raft", judged())) == [1, 0, 0, 0, 0, 0, 0, 1]
    assert firsts(advantages("raft", judged(), keep=2)) == [1, 0, 0, 1, 1, 0, 0, 1]
    assert firsts(advantages("raft", judged(), min=2.0)) == [0, 0, 0, 0, 0, 0, 0, 1]
    assert firsts(advantages("raft", judged([[1.0] * 4, [2.0, 2.0, 2.0, math.nan]]))) == [0] * 8


def test_the_clipped_surrogate_has_no_gradient_outside_and_only_there() -> None:
    log_ratio = torch.tensor([-0.5, -0.5, 0.0, 0.1, 0.5, 0.5], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    loss = compute_clipped_loss(log_ratio.exp(), advantage, 0.2, 0.28)
    loss.sum().backward()
    assert log_ratio.grad is not None
    still = mark_clipped_tokens(log_ratio.detach().exp(), advantage, 0.2, 0.28)
    assert still.tolist() == [0, 1, 0, 0, 1, 0]
    assert (log_ratio.grad == 0).tolist() == still.bool().tolist()
    assert loss[4].item() == pytest.approx(-1.28)


def test_a_sequence_has_the_geometric_mean_of_its_tokens() -> None:
    rows = [TokenRow([1, 2, 3], [0.0, 1.0, 1.0]), TokenRow([1, 4], [0.0, 1.0]), TokenRow([1, 2], [0.0, 0.0])]
    found = average_row_log_ratio(torch.tensor([0.2, 0.4, -1.0]), build_pack(rows))
    assert found.tolist() == pytest.approx([0.3, 0.3, -1.0])


def test_corrections_and_divergences() -> None:
    old, written = torch.tensor([-1.0, -1.0, -3.0]), torch.tensor([-1.0, -3.0, -1.0])
    assert truncate_importance_ratio(old, written, 2.0).tolist() == pytest.approx([1.0, 2.0, math.exp(-2)])
    apart = torch.tensor([-1.0, -2.0])
    reference = torch.tensor([-2.0, -1.0])
    assert estimate_kl(apart, reference, "k2").tolist() == pytest.approx([0.5, 0.5])
    assert estimate_kl(apart, reference, "k3").tolist() == pytest.approx([math.exp(-1) - 1 + 1, math.exp(1) - 1 - 1])
