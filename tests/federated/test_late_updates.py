"""Updates that come after their round count in a later one by their age; the test's own clock says what is late."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from federations import Sites
from late_rounds import ADAPTER, NAMES, Rounds, build_again, federate
from luthier.federated import update_sum
from luthier.federated.control_variates import split_variates
from luthier.federated.late_updates import LateSettings, add_late_change
from luthier.federated.privacy import SpentPrivacy, measure_norm
from luthier.federated.sites.ledger import SiteLedger
from luthier.tune.privacy.accountant import PrivacyAccount

ROWS = {"north": 24, "south": 16, "west": 8}


def list_ages(made: Any) -> list[dict[str, int]]:
    return [
        {name: site["age"] for name, site in entry["sites"].items()}
        for entry in made.read_json("federation.json")["rounds"]
    ]


def given_in(rounds: Rounds, number: int) -> dict[str, torch.Tensor]:
    """The weights that a round began with."""
    return {
        name.removeprefix("weight/"): value.double()
        for name, value in rounds.heard["north", number][0].tensors.items()
        if "lora_B" in name and not name.startswith("control/")
    }


def test_a_late_update_counts_by_its_age(sites: Sites, rounds: Rounds) -> None:
    rounds.late = {("south", 1): 3}
    made = federate(sites, rounds, "a1" * 16, late={})
    assert list_ages(made) == [
        {"north": 0, "west": 0},
        {"north": 0, "west": 0},
        {"north": 0, "south": 2, "west": 0},
        {"north": 0, "south": 0, "west": 0},
    ]
    records = made.read_json("federation.json")["rounds"]
    assert [record["missing"] for record in records] == [["south"], ["south"], [], []]
    assert records[2]["rows"] == sum(ROWS.values())
    first, third, fourth = (given_in(rounds, number) for number in (1, 3, 4))
    updates = {"north": ("north", 3), "west": ("west", 3), "south": ("south", 1)}
    for name, value in fourth.items():
        change = torch.zeros_like(value)
        for site, key in updates.items():
            begun, weight = (first, 1 / math.sqrt(3)) if site == "south" else (third, 1.0)
            trained = rounds.heard[key][1].tensors[name].double()
            change += ROWS[site] * weight * (trained - begun[name])  # FedBuff's sum, each weighed by its age
        torch.testing.assert_close(value, third[name] + change / sum(ROWS.values()), atol=1e-7, rtol=1e-6)
    assert not any(path.name == "2" for path in rounds.mail.rglob("*"))


def test_without_the_setting_it_is_lost(sites: Sites, rounds: Rounds) -> None:
    rounds.late = {("south", 1): 2}
    made = federate(sites, rounds, "a2" * 16, rounds=2)
    assert list_ages(made) == [{"north": 0, "west": 0}, {"north": 0, "south": 0, "west": 0}]
    assert ("south", 1) not in rounds.heard, "its message is gone when the next one takes its place"


def test_a_site_that_is_too_late_is_asked_anew(sites: Sites, rounds: Rounds) -> None:
    rounds.late = {("south", 1): 99}
    made = federate(sites, rounds, "a3" * 16, late={"most_rounds": 2})
    assert list_ages(made) == [{"north": 0, "west": 0}] * 3 + [{"north": 0, "south": 0, "west": 0}]
    assert [key for key in sorted(rounds.heard) if key[0] == "south"] == [("south", 4)]


def test_a_killed_coordinator_goes_on_to_the_same_bytes(sites: Sites, rounds: Rounds) -> None:
    rounds.late = {("south", 1): 3}
    whole = federate(sites, rounds, "a4" * 16, late={}, control_variates=True)
    for name in NAMES:
        rounds.servers[name] = build_again(rounds.servers[name])
    rounds.killed = {1, 2, 3, 4}
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            federate(sites, rounds, "a5" * 16, late={}, control_variates=True)
    made = federate(sites, rounds, "a5" * 16, late={}, control_variates=True)
    assert list_ages(made) == list_ages(whole)
    assert made.path(ADAPTER).read_bytes() == whole.path(ADAPTER).read_bytes()


def test_the_shared_variate_stays_the_mean_of_the_sites_own(sites: Sites, rounds: Rounds) -> None:
    rounds.late = {("south", 1): 2, ("west", 2): 99}
    federate(sites, rounds, "a6" * 16, late={"most_rounds": 1}, control_variates=True, rounds=5)
    own: dict[str, dict[str, torch.Tensor]] = {name: {} for name in NAMES}
    counted = [("north", 1), ("west", 1), ("north", 2), ("south", 1), ("north", 3), ("south", 3), ("north", 4),
               ("south", 4), ("west", 4)]  # fmt: skip
    for key in counted:
        _, changes = split_variates(rounds.heard[key][1].tensors)
        before = own[key[0]]
        own[key[0]] = {name: before.get(name, torch.zeros_like(value)) + value for name, value in changes.items()}
    _, shared = split_variates(rounds.heard["north", 5][0].tensors)
    for name, value in shared.items():
        mean = sum(ROWS[site] * own[site][name].double() for site in NAMES) / sum(ROWS.values())
        torch.testing.assert_close(value.double(), torch.as_tensor(mean), atol=1e-7, rtol=1e-5)
    assert max(float(value.abs().max()) for value in shared.values()) > 0


@pytest.mark.slow
def test_a_transport_does_not_change_the_bytes(sites: Sites, rounds: Rounds) -> None:
    settings: dict[str, Any] = {"rounds": 3, "sum": "ffa", "local": {"steps": 1}, "control_variates": True}
    here = sites.federate(sites.step(NAMES, **settings))
    there = federate(sites, rounds, "a7" * 16, **settings, late={})
    assert load_file(here.path(ADAPTER)).keys() == load_file(there.path(ADAPTER)).keys()
    assert here.path(ADAPTER).read_bytes() == there.path(ADAPTER).read_bytes()


OFF = {"on_loss_spike": "off"}
DELTA = 1e-3


def test_what_is_told_of_rows_holds_for_a_site_that_comes_late(sites: Sites, rounds: Rounds) -> None:
    """Noise is drawn in a site's own steps, so that an age only weighs what has it already; and no round is trained
    twice, also by a site that is asked anew since it is too late."""
    rounds.late = {("south", 1): 2, ("west", 1): 99}
    privacy = {"epsilon": 8.0, "delta": DELTA}
    made = federate(sites, rounds, "a8" * 16, rounds=5, late={"most_rounds": 2}, privacy=privacy, tune=OFF, least=1)
    assert list_ages(made)[1]["south"] == 1
    trained = {name: [number for site, number in sorted(rounds.heard) if site == name] for name in NAMES}
    assert trained == {"north": [1, 2, 3, 4, 5], "south": [1, 3, 4, 5], "west": [4, 5]}
    for name, numbers in trained.items():
        spent = tuple(SiteLedger(rounds.servers[name]._folder).list_spent(lambda entry: False))
        assert len(spent) == len(numbers), "each round that is trained costs once"
        assert {entry.unit for entry in spent} == {"row"}
        assert sum(entry.steps for entry in spent) <= 5
        assert SpentPrivacy(spent).count_epsilon(DELTA) <= 8.0


@pytest.mark.slow  # that of rows is below
def test_what_is_told_of_sites_holds_for_one_that_comes_late(
    sites: Sites, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site is in each sum once at most, by no more than the clip, and a late one by that times its weight."""
    sums: list[list[float]] = []
    average = update_sum.average_clipped_updates

    def listening(changes: Any, *rest: Any) -> Any:
        held = [dict(change) for change in changes]
        sums.append([measure_norm(change) for change in held])
        return average(held, *rest)

    monkeypatch.setattr(update_sum, "average_clipped_updates", listening)
    rounds.late = {("south", 1): 4}
    privacy, clip = {"epsilon": 50.0, "delta": 1e-2, "unit": "site", "clip": 1e-2}, 1e-2
    made = federate(sites, rounds, "a9" * 16, rounds=4, late={}, privacy=privacy, tune=OFF)
    assert list_ages(made)[3] == {"north": 0, "south": 3, "west": 0}
    assert [len(norms) for norms in sums] == [2, 2, 2, 3], "as many sums as rounds, each site once"
    south = rounds.heard["south", 1]
    begun = given_in(rounds, 1)
    own = {name: south[1].tensors[name].double() - value for name, value in begun.items()}
    assert measure_norm(own) > 4 * clip, "so long that it would be clipped after it was weighed, too"
    assert sums[3][1] == pytest.approx(clip / 2, rel=1e-3)
    step = sites.step([], rounds=4, sum="ffa", least=2, late={}, transport=rounds.transport, privacy=privacy, tune=OFF)
    told = PrivacyAccount.of(step.site_noise / clip, 1.0, len(sums)).epsilon(1e-2)
    assert told <= 50.0


def test_a_late_change_is_clipped_before_it_is_weighed() -> None:
    start, given = {"a": torch.zeros(2)}, {"a": torch.ones(2)}
    found = add_late_change({"a": torch.tensor([30.0, 40.0])}, start, given, 0.5, clip=5.0)
    torch.testing.assert_close(found["a"], torch.tensor([1 + 1.5, 1 + 2.0]))
    plain = add_late_change({"a": torch.tensor([30.0, 40.0])}, start, given, 0.5)
    torch.testing.assert_close(plain["a"], torch.tensor([16.0, 21.0]))


def test_older_changes_count_less() -> None:
    assert [LateSettings().weigh(age) for age in (0, 1, 3)] == [1.0, pytest.approx(2**-0.5), 0.5]
    assert LateSettings(exponent=0.0).weigh(7) == 1.0


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"secure": {}, "least": 3}, "masks cancel in the sum of their own round alone"),
        ({"transport": None, "least": 2}, "are never late"),
        ({}, "set `least` to go on without some"),
        ({"least": 2, "sum": "stack"}, "begins anew in each round"),
        ({"least": 2, "sum": "alternate"}, "trains other weights in the next round"),
    ],
)
def test_where_it_cannot_be_it_is_refused(sites: Sites, settings: dict[str, Any], match: str) -> None:
    common = {"sum": "ffa", "transport": "processes", "late": {}}
    with pytest.raises(ValidationError, match=match):
        sites.step([*NAMES, "east"], **{**common, **settings})
