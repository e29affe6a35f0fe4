"""Losses and gradients of policies against numbers that TRL and verl gave: `tests/oracles/freeze_policies.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from luthier.core.component import components_by_kind
from luthier.models.packing.pack import TokenRow, build_pack
from luthier.tune.objective import REFERENCE, Objective
from luthier.tune.objectives.ppo import Ppo
from luthier.tune.policy import ADVANTAGE, KL, OLD, RETURN, SHARE, VALUE, WRITTEN, ActorCritic, PolicyObjective
from luthier.tune.rollout.scores import RolloutBatch
from policies import REGEX

CASES = json.loads((Path(__file__).parent / "policies.json").read_text())
LONGEST = 4


def policy_of(case: dict[str, Any]) -> PolicyObjective:
    drawing = {"num_generations": len(case["rewards"][0]), "max_completion_length": LONGEST}
    told = {"rewards": [REGEX], **case["objective"]}
    told["rollout"] = {**drawing, **told.get("rollout", {})}
    made = components_by_kind(Objective)[told["kind"]].model_validate(told)
    assert isinstance(made, PolicyObjective)
    return made


def rows_of(case: dict[str, Any], policy: PolicyObjective) -> list[TokenRow]:
    """All answers as the rollout makes rows of them, each with its number as its key."""
    table, held = numpy.array(case["rewards"]), policy.holding
    old, was, written = ([list(one) for one in case.get(name, case["old"])] for name in ("old", "reference", "written"))
    for at in case.get("masked", []):  # cut off by the limit, and not learnt
        old[at] = was[at] = written[at] = []
    costs = [
        [held.coefficient * (p - q) for p, q in zip(*one, strict=True)] for one in zip(old, was, strict=True)
    ] if held is not None and held.estimator == "k1" else None  # fmt: skip
    lengths = numpy.array([len(one) for one in old]).reshape(table.shape)
    told = policy.compute_token_values(RolloutBatch(table, lengths, costs, case.get("values")))
    price = held.coefficient if held is not None and costs is None else 0.0
    rows = []
    for at, count in enumerate(map(len, old)):
        known = {OLD: old[at], WRITTEN: written[at], REFERENCE: was[at], KL: [price] * count, SHARE: [1.0] * count}
        weights = [0.0, *[policy.weight(count)] * count]
        rows.append(
            TokenRow(
                [at] * (count + 1), weights, str(at), token_values=known | {name: one[at] for name, one in told.items()}
            )
        )
    return rows


def taken(case: dict[str, Any], policy: PolicyObjective) -> tuple[float, list[list[float]]]:
    """The loss and its gradient by each answer's log-probabilities."""
    every = rows_of(case, policy)
    rows = policy.arrange_rows(every)
    leaf = torch.tensor(
        [v for row in rows for v in case["logp"][int(row.key)]], dtype=torch.float64, requires_grad=True
    )
    made = build_pack(rows)
    loss = policy.loss(leaf, made, made.token_values.get(REFERENCE)).total / policy.denominator(every)
    loss.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return float(loss.detach()), by_answer(leaf.grad, rows, case)


def by_answer(values: torch.Tensor, rows: list[TokenRow], case: dict[str, Any]) -> list[list[float]]:
    """(N,) numbers of a pack as rows, in the order of the answers; zeros for those that are not read."""
    found = [[0.0] * len(one) for one in case["logp"]]
    for row, part in zip(rows, values.split([len(row.targets) for row in rows]), strict=True):
        found[int(row.key)] = part.tolist()
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['peer']} {json.dumps(case['objective'])}")
def test_losses_and_gradients_are_those_that_the_peer_gave(case: dict[str, Any]) -> None:
    loss, gradient = taken(case, policy_of(case))
    assert loss == pytest.approx(case["loss"], abs=1e-6)
    for found, wanted in zip(gradient, case["gradient"], strict=True):
        assert found == pytest.approx(wanted, abs=1e-6)
    assert any(value for row in gradient for value in row)


@pytest.mark.parametrize(
    "case", [case for case in CASES if "advantages" in case], ids=lambda case: str(case["objective"])
)
def test_advantages_are_verls(case: dict[str, Any]) -> None:
    for row, ahead in zip(rows_of(case, policy_of(case)), case["advantages"], strict=True):
        assert row.token_values[ADVANTAGE] == pytest.approx(ahead, abs=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if "values" in case], ids=lambda case: str(case["objective"]))
def test_the_critics_loss_is_verls(case: dict[str, Any]) -> None:
    policy = policy_of(case)
    assert isinstance(policy, ActorCritic)
    rows = rows_of(case, policy)
    for row, returns in zip(rows, case["returns"], strict=True):
        assert row.token_values[RETURN] == pytest.approx(returns, abs=1e-6)
    leaf = torch.tensor([v for some in case["vpreds"] for v in some], dtype=torch.float64, requires_grad=True)
    loss = policy.value_loss(leaf, build_pack(rows)).total / policy.value_weight / policy.denominator(rows)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(case["value_loss"], abs=1e-6)
    assert leaf.grad is not None
    for found, wanted in zip(by_answer(leaf.grad, rows, case), case["value_gradient"], strict=True):
        assert found == pytest.approx(wanted, abs=1e-6)


def test_generalised_advantages_are_the_papers_sum() -> None:
    """A(t) = Σ (γλ)^k δ(t + k), written out as Schulman et al. (2016, eq. 16) have it."""
    chance = numpy.random.Generator(numpy.random.PCG64(3))
    values, gamma, trust = chance.normal(size=7).tolist(), 0.9, 0.8
    policy = Ppo.model_validate({"rewards": [REGEX], "gamma": gamma, "gae_lambda": trust, "whiten": False})
    told = policy.compute_token_values(
        RolloutBatch(numpy.array([[0.7, 0.1]]), numpy.array([[7, 7]]), None, [values, values])
    )
    rewards, after = [0.0] * 6 + [0.7], [*values[1:], 0.0]
    delta = [r + gamma * v - w for r, v, w in zip(rewards, after, values, strict=True)]
    wanted = [sum((gamma * trust) ** (k - t) * delta[k] for k in range(t, 7)) for t in range(7)]
    assert told[ADVANTAGE][0] == pytest.approx(wanted, abs=1e-12)
    assert told[RETURN][0] == pytest.approx([a + v for a, v in zip(wanted, values, strict=True)], abs=1e-12)
    assert told[VALUE][0] == values


def test_where_all_answers_of_a_step_are_alike_ppo_learns_nothing_unless_tokens_cost_something() -> None:
    policy = Ppo.model_validate({"rewards": [REGEX]})
    values = [[0.1, -0.2], [0.3, 0.4]]
    table, lengths = numpy.array([[1.0], [1.0]]), numpy.array([[2], [2]])
    assert policy.advantages(RolloutBatch(table, lengths, None, values)) == [[0.0] * 2] * 2
    assert all(map(any, policy.advantages(RolloutBatch(table, lengths, [[0.1, 0.0], [0.0, 0.2]], values))))


def test_the_best_and_the_worst_answer_are_the_pair_and_ties_are_none() -> None:
    policy = components_by_kind(Objective)["online_dpo"].model_validate({"kind": "online_dpo", "rewards": [REGEX]})
    assert isinstance(policy, PolicyObjective)
    table = numpy.array([[0.5, 2.0, numpy.nan, -1.0], [1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 3.0, 0.0]])
    lengths = numpy.full(table.shape, 1)
    assert [one[0] for one in policy.advantages(RolloutBatch(table, lengths))] == [0, 1, 0, -1, 0, 0, 0, 0, 1, -1, 0, 0]
    lengths[0, 1] = 0  # cut off, and masked
    assert [one[0] if one else None for one in policy.advantages(RolloutBatch(table, lengths))][:4] == [1, None, 0, -1]
