"""Robust sums equal Flower's, and attacks that carry a plain mean away do not carry them; each other attack is one
clear error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from federations import Sites, build_sites
from luthier.core.errors import LuthierError
from luthier.federated.local_training import FederatedTraining, SiteUpdate
from luthier.federated.messaging.messages import FederationMessage, RoundUpdate
from luthier.federated.robust_rule import RobustRule
from luthier.federated.secure_aggregation.masks import MASKED
from luthier.federated.sites.worker import SiteWorker
from tuning import examples

ADAPTER = "adapter/adapter_model.safetensors"
CHANGES = torch.tensor(
    [[2.041, -2.556, 0.418], [-0.568, -0.453, -0.216], [-40.4, -4.64, -17.3], [3.323, 0.226, -0.353],
     [-0.281, -0.668, -1.055], [-16.328, 20.448, -3.344], [0.958, -0.2, 0.024], [1.546, 0.545, -0.505],
     [-0.183, 0.541, 1.935], [-0.27, -0.244, 1.002], [-0.886, -0.292, 0.883]], dtype=torch.float64,
)  # fmt: skip
FLOWER: list[tuple[dict[str, Any], int, list[float]]] = [
    ({"kind": "krum", "poisoned": 2, "keep": 1}, 11, [0.958, -0.2, 0.024]),
    ({"kind": "krum", "poisoned": 2}, 11, [0.631111111111, -0.344555555556, 0.237]),
    ({"kind": "median"}, 11, [-0.27, -0.244, -0.216]),
    ({"kind": "median"}, 10, [-0.2265, -0.222, -0.2845]),
    ({"kind": "trimmed_mean", "poisoned": 2}, 11, [0.045142857143, -0.155714285714, -0.114857142857]),
    ({"kind": "bulyan", "poisoned": 2}, 11, [-0.373, -0.245333333333, 0.075333333333]),
]
"""What `flwr.server.strategy.aggregate` of Flower 1.42 makes of the same updates; its pins exclude ours, so it does not
run here; tests/oracles/test_flower.py compares whole federations where it is installed."""


@pytest.mark.parametrize(("settings", "sites", "expected"), FLOWER)
def test_rules_are_flowers(settings: dict[str, Any], sites: int, expected: list[float]) -> None:
    found = RobustRule.parse(settings).combine(CHANGES[:sites])
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-11)


def test_the_geometric_median_has_no_slope() -> None:
    found = RobustRule.parse({"kind": "geometric_median"}).combine(CHANGES)
    ways = CHANGES - found
    assert float((ways / ways.norm(dim=1, keepdim=True)).sum(0).norm()) < 1e-6


def test_a_trimmed_geometric_median_keeps_more_of_the_honest_way() -> None:
    """Honest changes lie far apart; two of ten send ten times their change turned round."""
    chance = torch.Generator().manual_seed(3)
    way = torch.zeros(400, dtype=torch.float64)
    way[0] = 1.0
    changes = way + 0.2 * torch.randn(10, 400, generator=chance, dtype=torch.float64)
    changes[[1, 5]] *= -10
    plain, trimmed = (
        RobustRule.parse({"kind": "geometric_median", "poisoned": 2, "trim": trim}).combine(changes)
        for trim in (False, True)
    )
    honest = changes[[at for at in range(10) if at not in (1, 5)]]
    assert float(trimmed[0]) > 0.95 > float(plain[0])
    assert float((trimmed - honest.mean(0)).norm()) < 0.2 * float((plain - honest.mean(0)).norm())


NAMES = [f"site{at}" for at in range(9)]


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    rows = examples(36)
    return build_sites(tmp_path_factory.mktemp("nine"), {name: rows[at::9] for at, name in enumerate(NAMES)})


def poison(patch: pytest.MonkeyPatch, attacks: dict[str, Callable[[Tensor], Tensor]], heard: list[Any]) -> None:
    """Sites make almost the same change, but for those that attack with what they make of it."""

    def training(self: FederatedTraining, given: Any, number: int, *rest: Any) -> SiteUpdate:
        site = self._work.scratch.parent.name
        chance = torch.Generator().manual_seed(NAMES.index(site))
        moved = {}
        for name, value in given.moving.items():
            if "lora_B" in name:
                change = 1 + 0.1 * torch.randn(value.shape, generator=chance)
                moved[name] = value + attacks.get(site, lambda own: own)(change)
        heard.append(site)
        return SiteUpdate(moved, 4, 1, 1.0)

    patch.setattr(FederatedTraining, "train_round", training)


def change_of(sites: Sites, attack: str, patch: pytest.MonkeyPatch, digest: str, **settings: Any) -> float:
    """The mean change of B by a round: 1 where nobody attacks."""
    heard = list[str]()
    poison(patch, dict.fromkeys(["site1", "site5"], POISONS[attack]), heard)
    step = sites.step(NAMES, rounds=1, sum="ffa", **settings)
    made = load_file(sites.federate(step, digest=digest * 16).path(ADAPTER))
    assert len(heard) == 9
    moved = torch.cat([value.flatten() for name, value in made.items() if "lora_B" in name])
    return float(moved.mean())


POISONS: dict[str, Callable[[Tensor], Tensor]] = {
    "scaled": lambda change: 50 * change,
    "flipped": lambda change: -change,
    "flipped and scaled": lambda change: -20 * change,
    "turned to one side": lambda change: torch.full_like(change, 30.0),
}


@pytest.mark.parametrize("attack", POISONS)
def test_a_poisoned_mean_is_carried_away(nine: Sites, monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    mean = change_of(nine, attack, monkeypatch, f"{sorted(POISONS).index(attack)}a")
    assert abs(mean - 1) > 0.4, "the attack succeeds"


@pytest.mark.parametrize(("kind", "attack"), [
    ("krum", "scaled"), ("krum", "flipped"), ("median", "flipped and scaled"), ("trimmed_mean", "turned to one side"),
    ("geometric_median", "scaled"),
])  # fmt: skip
def test_a_robust_sum_is_not(nine: Sites, monkeypatch: pytest.MonkeyPatch, kind: str, attack: str) -> None:
    digest = (
        f"{sorted(POISONS).index(attack)}{'bcdef'[['krum', 'median', 'trimmed_mean', 'geometric_median'].index(kind)]}"
    )
    mean = change_of(nine, attack, monkeypatch, digest, robust={"kind": kind, "poisoned": 2})
    assert abs(mean - 1) < 0.05


def test_a_scaled_update_weighs_no_more_than_another_under_a_bound(
    nine: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert abs(change_of(nine, "scaled", monkeypatch, "9a", robust={"kind": "norm_bound", "poisoned": 2}) - 1) < 0.05


def test_groups_are_masked_within_and_chosen_between(nine: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.federated import update_sum

    heard = list[FederationMessage]()
    combine = update_sum.UpdateSum.combine

    def hearing(self: Any, updates: Any, *rest: Any) -> Any:
        heard.extend(updates.values())
        return combine(self, updates, *rest)

    monkeypatch.setattr(update_sum.UpdateSum, "combine", hearing)
    poison(monkeypatch, {"site4": lambda change: -20 * change}, [])  # of the group of sites 1, 4 and 7
    step = nine.step(NAMES, rounds=1, sum="ffa", secure={"groups": 3}, robust="median")
    made = load_file(nine.federate(step, digest="9b" * 16).path(ADAPTER))
    moved = torch.cat([value.flatten() for name, value in made.items() if "lora_B" in name])
    assert abs(float(moved.mean()) - 1) < 0.1
    assert [set(message.tensors) for message in heard] == [{MASKED}] * 9
    said = step.describe_exchange(None)
    assert "sums over each of 3 groups of sites alone" in said
    assert "median in place of the mean bears 1 poisoned of 3 groups" in said
    plain = nine.step(NAMES, secure={}).describe_exchange(None)
    assert "a poisoned update is part of the sum" in plain


def test_a_group_whose_masks_do_not_cancel_counts_as_poisoned(nine: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = SiteWorker.answer

    def forging(self: SiteWorker, number: int, content: bytes) -> bytes:
        reply = answer(self, number, content)
        if number != 1 or self.name not in forged:
            return reply
        message = FederationMessage.decode(reply, RoundUpdate)
        return FederationMessage(message.header, {MASKED: message.tensors[MASKED] ^ 0x5A5A5A5A5A5A5A5A}).encode()

    monkeypatch.setattr(SiteWorker, "answer", forging)
    poison(monkeypatch, {}, [])
    forged = {"site2"}
    step = nine.step(NAMES, rounds=1, sum="ffa", secure={"groups": 3}, robust="median")
    made = load_file(nine.federate(step, digest="9c" * 16).path(ADAPTER))
    moved = torch.cat([value.flatten() for name, value in made.items() if "lora_B" in name])
    assert abs(float(moved.mean()) - 1) < 0.1
    assert any("the sum over site2, site5, site8 is left out" in text for text in nine.said("warning"))
    forged = {"site2", "site3"}
    with pytest.raises(LuthierError, match="the sums of 2 groups are none, and 1 may be"):
        nine.federate(step, digest="9d" * 16)


def test_an_update_that_is_none_is_left_out_and_counted(nine: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, {"site3": lambda change: change / 0, "site6": lambda change: change}, [])
    step = nine.step(NAMES, rounds=1, sum="ffa", least=7, robust={"kind": "krum", "poisoned": 2})
    [record] = nine.federate(step, digest="9e" * 16).read_json("federation.json")["rounds"]
    assert record["missing"] == ["site3"]
    assert any("site site3 is left out of round 1" in text for text in nine.said("warning"))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"robust": {"kind": "bulyan", "poisoned": 2}}, "bulyan bears 2 poisoned sites of 11 or more, and there are 9"),
    ({"robust": {"kind": "krum", "poisoned": 2}, "least": 6}, "krum bears 2 poisoned sites of 7 or more"),
    ({"robust": "median", "sum": "stack"}, "takes the place of a mean, and stack is none"),
    ({"robust": "median", "secure": {}}, "under masks no site's update is seen"),
    ({"robust": "median", "secure": {"groups": 4}}, "4 groups of 9 sites have fewer than 3 sites"),
    ({"robust": "krum", "secure": {"groups": 3}}, "krum bears 1 poisoned groups of 5 or more, and there are 3"),
    ({"robust": "median", "secure": {"groups": 3}, "least": 7}, "fewer than 4 sites, the fewest of which one may be"),
    ({"secure": {"groups": 3}}, "groups of masks are for `robust` rules"),
    ({"robust": "median", "privacy": {"unit": "site", "epsilon": 1}}, "the promise to whole sites is for a mean"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_a_rule_cannot_bear_is_refused(nine: Sites, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        nine.step(NAMES, **{"sum": "ffa", **settings})
