"""Groups of sites each bear drop-outs, fail alone, and a robust rule chooses among those that remain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from federations import Sites, build_sites
from luthier.core.errors import LuthierError
from luthier.federated.errors import MessageError
from luthier.federated.local_training import FederatedTraining, SiteUpdate
from luthier.federated.messaging.messages import FederationMessage, RoundKeys, RoundUpdate, SurvivorSignature
from luthier.federated.secure_aggregation import dropout_masks
from luthier.federated.secure_aggregation.dropout_masks import DropoutMasks, MaskContext
from luthier.federated.secure_aggregation.masks import MASKED
from luthier.federated.sites.worker import SiteWorker
from luthier.federated.transport import LocalChannel
from masked_rounds import IDENTITIES, Round
from tuning import examples

ADAPTER = "adapter/adapter_model.safetensors"
NAMES = [f"s{at:02}" for at in range(16)]
GROUPS = [NAMES[at::4] for at in range(4)]
LATER = {
    1: "trained",
    2: "shared their secrets",
    3: "sent masked numbers",
    4: "signed who remains",
    5: "gave their shares",
}


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    rows = examples(64)
    return build_sites(tmp_path_factory.mktemp("sixteen"), {name: rows[at::16] for at, name in enumerate(NAMES)})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[Tensor], Tensor]]:
    """Sites change B by 1 and something of their own, in no time; those in the dictionary send what it makes of it."""
    attacks: dict[str, Callable[[Tensor], Tensor]] = {}

    def training(self: FederatedTraining, given: Any, number: int, *rest: Any) -> SiteUpdate:
        site = self._work.scratch.parent.name
        moved = {name: value + attacks.get(site, lambda own: own)(change_of(site, value))
                 for name, value in given.moving.items() if "lora_B" in name}  # fmt: skip
        return SiteUpdate(moved, 4, 1, 1.0)

    monkeypatch.setattr(FederatedTraining, "train_round", training)
    return attacks


def change_of(site: str, value: Tensor) -> Tensor:
    return 1 + 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(NAMES.index(site)))


def median_of(groups: list[list[str]], value: Tensor) -> Tensor:
    """What the rule makes of some groups' means."""
    means = torch.stack([torch.stack([change_of(site, value) for site in group]).mean(0) for group in groups])
    ordered = means.sort(0).values
    return (ordered[(len(groups) - 1) // 2] + ordered[len(groups) // 2]) / 2


def run(sites: Sites, digest: str, groups: list[list[str]], **settings: Any) -> dict[str, Any]:
    """One round, whose model has the median of these groups; returns its record."""
    step = sites.step(NAMES, rounds=1, sum="ffa", secure={"groups": 4}, robust="median", **{"least": 9, **settings})
    made = sites.federate(step, digest=digest * 16)
    for name, value in load_file(made.path(ADAPTER)).items():
        if "lora_B" in name:
            assert float((value - median_of(groups, value)).abs().max()) < 1e-5
    [record] = made.read_json("federation.json")["rounds"]
    assert sorted(record["sites"]) == sorted(site for group in groups for site in group)
    assert sorted([*record["sites"], *record["missing"]]) == NAMES
    assert record["rows"] == 4 * len(record["sites"])
    kept = sites.work(step, digest=digest * 16).scratch
    assert not list(kept.glob("replies"))
    return dict(record)


def without(*lost: str) -> list[list[str]]:
    return [[site for site in group if site not in lost] for group in GROUPS]


def lose(patch: pytest.MonkeyPatch, since: int, gone: set[str], killed: list[int] | None = None) -> None:
    """From a message on, some sites do not answer; the coordinator dies after those in `killed`."""
    exchange = LocalChannel.exchange

    def left(self: Any, number: int, contents: Any) -> Any:
        found = exchange(
            self, number, {name: it for name, it in contents.items() if number < since or name not in gone}
        )
        if number in (killed or ()):
            raise KeyboardInterrupt
        return found

    patch.setattr(LocalChannel, "exchange", left)


@pytest.mark.parametrize("since", [2, 3, 5])
def test_a_site_may_be_lost_in_each_group(sixteen: Sites, monkeypatch: pytest.MonkeyPatch, since: int) -> None:
    gone = {"s00", "s05"}
    lose(monkeypatch, since, gone)
    run(sixteen, f"{since}1", without(*(gone if since <= 3 else ())))


@pytest.mark.parametrize("since", LATER)
def test_a_group_with_too_few_is_left_out_alone(sixteen: Sites, monkeypatch: pytest.MonkeyPatch, since: int) -> None:
    lose(monkeypatch, since, {"s02", "s06"})
    sixteen.heard.clear()
    run(sixteen, f"{since}2", [GROUPS[0], GROUPS[1], GROUPS[3]])
    [said] = [text for text in sixteen.said("warning") if "the group of" in text]
    assert said == (
        "the group of s02, s06, s10, s14 is left out of round 1: "
        f"2 of its sites {LATER[since]}, and at least 3 are needed"
    )


def test_with_too_few_groups_the_round_waits_and_goes_on(sixteen: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {"s02", "s06", "s01", "s05"}
    lose(monkeypatch, 3, gone)
    why = r"8 sites in 2 groups that remain sent masked numbers in round 1, and at least 9 in 3 groups are needed"
    with pytest.raises(LuthierError, match=why):
        run(sixteen, "a3", GROUPS)
    gone.difference_update({"s01", "s05"})
    run(sixteen, "a3", [GROUPS[0], GROUPS[1], GROUPS[3]])


@pytest.mark.parametrize("stop", [1, 4])
def test_a_coordinator_killed_after_a_group_was_lost_goes_on(
    sixteen: Sites, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    killed = [stop]
    lose(monkeypatch, 2, {"s03", "s07"}, killed)
    with pytest.raises(KeyboardInterrupt):
        run(sixteen, f"{stop}4", GROUPS)
    killed.clear()
    run(sixteen, f"{stop}4", GROUPS[:3])


@pytest.mark.parametrize(
    "attack", [lambda change: -20 * change, lambda change: torch.full_like(change, 30.0)], ids=["flipped", "turned"]
)
def test_a_poisoned_site_carries_its_group_and_no_more(
    sixteen: Sites, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch, attack: Any
) -> None:
    lose(monkeypatch, 3, {"s12"})
    quick["s05"] = attack
    digest = "b5" if float(attack(torch.ones(1))) < 0 else "b6"
    step = sixteen.step(NAMES, rounds=1, sum="ffa", secure={"groups": 4}, robust="median", least=9)
    made = load_file(sixteen.federate(step, digest=digest * 16).path(ADAPTER))
    moved = torch.cat([value.flatten() for name, value in made.items() if "lora_B" in name])
    assert float((moved - 1).abs().max()) < 0.3
    plain = sixteen.step(NAMES, rounds=1, sum="ffa", secure={}, least=11)
    made = load_file(sixteen.federate(plain, digest=digest[::-1] * 16).path(ADAPTER))
    moved = torch.cat([value.flatten() for name, value in made.items() if "lora_B" in name])
    assert float((moved - 1).abs().mean()) > 1, "the attack succeeds without groups"


def forged_keys(message: FederationMessage) -> FederationMessage:
    keys = message.header.keys.model_copy(update={"signature": "11" * 64})
    return message._replace(header=message.header.model_copy(update={"keys": keys}))


def forged_signature(message: FederationMessage) -> FederationMessage:
    return message._replace(header=message.header.model_copy(update={"signature": "11" * 64}))


def shorter(message: FederationMessage) -> FederationMessage:
    return message._replace(tensors={MASKED: message.tensors[MASKED][:-1]})


SENT: dict[str, tuple[int, Any, Any, str, list[list[str]]]] = {
    "keys that nobody signed": (1, RoundKeys, forged_keys, "are not signed by its card", without(*GROUPS[1])),
    "a signature of nothing": (4, SurvivorSignature, forged_signature, "signed another list", without(*GROUPS[1])),
    "numbers of another shape": (3, RoundUpdate, shorter, "site s05 counts as lost in round 1", without("s05")),
    "no message": (3, RoundUpdate, None, "site s05 counts as lost in round 1", without("s05")),
}


@pytest.mark.parametrize("name", SENT)
def test_what_a_site_sends_ends_no_more_than_its_group(
    sixteen: Sites, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    stage, kind, forge, why, groups = SENT[name]
    answer = SiteWorker.answer

    def forging(self: SiteWorker, number: int, content: bytes) -> bytes:
        reply = answer(self, number, content)
        if (number, self.name) != (stage, "s05"):
            return reply
        return forge(FederationMessage.decode(reply, kind)).encode() if forge is not None else b"no message"

    monkeypatch.setattr(SiteWorker, "answer", forging)
    sixteen.heard.clear()
    run(sixteen, f"c{list(SENT).index(name)}", [group for group in groups if group])
    assert any(why in text for text in sixteen.said("warning"))


def split(folder: Path) -> dict[str, DropoutMasks]:
    """Sites of two groups, each of which knows its own group."""
    names = sorted(IDENTITIES)[:8]
    found = {}
    for group in (names[:4], names[4:]):
        for name in group:
            (folder / name).mkdir(parents=True)
            peers = {other: IDENTITIES[other].card for other in group if other != name}
            found[name] = DropoutMasks(IDENTITIES[name], peers, folder / name)
    return found


def test_a_site_that_is_moved_to_another_group_within_a_round_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dropout_masks, "count_chosen", lambda sites, least: 0)  # no neighbour tells of the group
    sites = split(tmp_path)
    names = sorted(sites)
    one, other = (
        MaskContext(federation="ab" * 16, round=1, digest="d", group=tuple(group), least=3)
        for group in (names[:4], names[4:])
    )
    keys = {name: sites[name].begin(one if name in one.group else other) for name in names}
    moved = {name: keys[name] for name in (*names[:3], names[4])}
    with pytest.raises(MessageError, match="no peer of this site, or not of its group"):
        sites[names[0]].share(moved)
    with pytest.raises(LuthierError, match="group of sites is not this site and its peers"):
        sites[names[0]].begin(one.model_copy(update={"group": tuple(sorted([*names[:3], names[4]]))}))
    peers = {name: IDENTITIES[name].card for name in (*names[1:3], names[4])}
    (tmp_path / "told").mkdir()
    told = DropoutMasks(IDENTITIES[names[0]], peers, tmp_path / "told")
    own = told.begin(one.model_copy(update={"group": tuple(sorted([names[0], *peers]))}))
    with pytest.raises(MessageError, match="or it was sent other weights or another group"):
        told.share({names[0]: own, **{name: keys[name] for name in names[1:3]}})


def test_numbers_of_a_round_are_bound_to_the_group(tmp_path: Path) -> None:
    one = Round(tmp_path, 5, 4)
    smaller = one.about.model_copy(update={"group": tuple(one.names[:4])})
    assert smaller.about != one.about.about
    assert numpy.array_equal(one.play({}), sum(one.numbers.values(), numpy.zeros(50, numpy.uint64)))


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"secure": {"groups": 5}, "least": 14},
        "5 groups of 16 sites have fewer than 4 sites, the fewest of which one may",
    ),
    ({"secure": {"groups": 4}, "least": 8}, "8 sites may be those of 2 groups, and median needs 3: set `least` to 9"),
    (
        {"secure": {"groups": 3}, "least": 11},
        "11 sites may be those of 2 groups, and median needs 3: set `least` to 12",
    ),
    ({"secure": {"groups": 2}, "least": 14}, "median bears 1 poisoned groups of 3 or more, and there are 2"),
    ({"secure": {"groups": 4}, "least": 17}, "there are 16 sites, and `least` is 17"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_cannot_be_is_refused_at_the_plan(sixteen: Sites, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        sixteen.step(NAMES, sum="ffa", robust="median", **settings)


def test_a_plan_says_what_the_coordinator_can_see_of_groups(sixteen: Sites) -> None:
    step = sixteen.step(NAMES, sum="ffa", robust="median", secure={"groups": 4}, least=9)
    said = step.describe_exchange(None)
    assert "sums over each of 4 groups of sites, over 3 sites or more of each, alone" in said
    assert "median in place of the mean bears 1 poisoned of 4 groups" in said
