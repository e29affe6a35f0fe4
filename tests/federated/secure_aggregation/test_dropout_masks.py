"""Sites may drop out of a masked round at any stage: the sum is that of those which remain, 0 units apart; and what a
coordinator could lie about is refused at the site."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file

from federations import Sites, build_sites
from luthier.core.errors import LuthierError
from luthier.federated.errors import MessageError
from luthier.federated.messaging.keys import FederationIdentity
from luthier.federated.secure_aggregation import dropout_masks
from luthier.federated.secure_aggregation.dropout_masks import (
    check_least,
    count_chosen,
    find_least,
)
from luthier.federated.sites.worker import SiteWorker
from luthier.federated.transport import LocalChannel
from luthier.federated.transports.processes import ProcessesChannel
from masked_rounds import STAGES, Round
from tuning import examples

ADAPTER = "adapter/adapter_model.safetensors"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.integers(4, 9))
def test_the_sum_is_that_of_the_sites_that_remain(tmp_path: Path, data: st.DataObject, count: int) -> None:
    least = data.draw(st.integers(find_least(count), count))
    masked = Round(tmp_path, count, least)
    dropping = data.draw(st.lists(st.sampled_from(masked.names), unique=True, max_size=count - least))
    lost = {name: data.draw(st.sampled_from(STAGES)) for name in dropping}
    total = masked.play(lost)
    left = masked.remaining("numbers", lost)
    assert sorted(masked.masked) == sorted(left)
    right = sum((masked.numbers[name] for name in left), numpy.zeros(50, numpy.uint64))
    assert numpy.array_equal(total, right), "0 units apart"
    for name in masked.names:
        assert not list((tmp_path / name).iterdir()) or name in lost, "nothing is kept of a round that ended"


def test_a_sparse_graph_gives_the_same_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropout_masks, "count_chosen", lambda sites, least: 5)
    for attempt in range(5):
        masked = Round(tmp_path / str(attempt), 12, 9)
        lost = {masked.names[2]: "numbers", masked.names[7]: "keys", masked.names[9]: "numbers"}
        total = masked.play(lost)
        neighbors = [len(masked.about.list_neighbors(masked.keys, name)) for name in masked.keys]
        assert min(neighbors) < 10, "not everybody is everybody's neighbour"
        left = [name for name in masked.names if name not in lost]
        assert numpy.array_equal(total, sum((masked.numbers[name] for name in left), numpy.zeros(50, numpy.uint64)))


def test_a_thousand_sites_need_few_neighbors_and_a_hundred_all() -> None:
    assert count_chosen(100, find_least(100)) == 99
    assert count_chosen(1000, find_least(1000)) < 250
    assert count_chosen(10_000, find_least(10_000)) < 300
    assert check_least(3, 3)
    assert check_least(10, 6) == "under masks more than two thirds of the sites must remain: 7 of 10, got 6"
    assert not check_least(10, 7)


def test_masked_numbers_of_one_site_tell_nothing(tmp_path: Path) -> None:
    masked = Round(tmp_path, 4, 3).to("signature")
    for name in masked.names:
        assert not numpy.array_equal(masked.masked[name], masked.numbers[name])
    first = masked.masked[masked.names[0]]
    again = Round(tmp_path / "again", 4, 3).to("signature")
    assert not numpy.array_equal(again.masked[masked.names[0]], first), "keys are fresh in each round"


def lying_list(one: Round) -> Any:
    """Two sites are told of different survivors."""
    for at, name in enumerate(one.names):
        left = [other for other in one.names if other != one.names[-1]] if at == 0 else one.names
        one.signed[name] = one.sites[name].sign_survivors(left)
    return one.sites[one.names[0]].reveal({name: one.signed[name] for name in one.names[:-1]})


def replaced_keys(one: Round) -> Any:
    """The coordinator puts keys of its own in the place of a site's."""
    stranger = FederationIdentity.create("s1")
    own = one.keys[one.names[1]]
    signature = stranger.sign(b"luthier mask keys 1" + own.list_signed(one.about.about)).hex()
    keys = {**one.keys, one.names[1]: own.model_copy(update={"signature": signature})}
    return one.sites[one.names[0]].share(keys)


def other_weights(one: Round) -> Any:
    """One site was sent other weights than the rest."""
    name = one.names[1]
    one.sites[name].forget()
    keys = {**one.keys, name: one.sites[name].begin(one.about.model_copy(update={"digest": "e"}))}
    return one.sites[one.names[0]].share(keys)


def both_shares(one: Round) -> Any:
    """First all are survivors, then one of them is said to be lost."""
    one.sign(one.names)
    one.sites[one.names[0]].reveal(one.signed)
    return one.sites[one.names[0]].sign_survivors(one.names[:-1])


def both_lists(one: Round) -> Any:
    one.sign(one.names)
    return one.sites[one.names[0]].sign_survivors(one.names[:-1])


LIES: dict[str, tuple[str, Callable[[Round], Any], str]] = {
    "both shares of a site": ("signature", both_shares, "comes after the end of its round"),
    "two lists of survivors": ("signature", both_lists, "another list .* was signed already"),
    "lists that differ": ("signature", lying_list, "signed another list of the sites that remain"),
    "swapped keys": ("shares", replaced_keys, "keys of s.* are not signed by its card"),
    "other weights for one": ("shares", other_weights, "or it was sent other weights"),
    "an isolated victim": (
        "shares",
        lambda one: one.sites[one.names[0]].share({name: one.keys[name] for name in one.names[:2]}),
        "2 sites are to be masked together, and at least 4",
    ),
    "a stranger among the sites": (
        "shares",
        lambda one: one.sites[one.names[0]].share({**one.keys, "f" * 64: one.keys[one.names[1]]}),
        "no peer of this site",
    ),
    "own keys replaced": (
        "shares",
        lambda one: one.sites[one.names[0]].share({name: one.keys[name] for name in one.names[1:]} | {
            one.names[0]: one.sites[one.names[0]]._sign_keys(
                one.sites[one.names[0]]._read().model_copy(update={"seed": "11" * 32}), [])}),
        "not its own",
    ),
    "a victim masked with few": (
        "numbers",
        lambda one: one.sites[one.names[0]].mask(one.numbers[one.names[0]], {}, one.names[:1]),
        "1 sites shared their secrets, and at least 4",
    ),
    "shares left out": (
        "numbers",
        lambda one: one.sites[one.names[0]].mask(one.numbers[one.names[0]], {}, one.names),
        "not those of this site's neighbours",
    ),
    "shares of another": (
        "numbers",
        lambda one: one.sites[one.names[0]].mask(
            one.numbers[one.names[0]],
            {**one.asked(one.names[0]), one.names[1]: one.asked(one.names[0])[one.names[2]]}, one.names),
        "cannot be opened",
    ),
    "few survivors": (
        "signature",
        lambda one: one.sites[one.names[0]].sign_survivors(one.names[:2]),
        "2 sites sent masked numbers, and at least 4",
    ),
    "survivors without the victim": (
        "signature",
        lambda one: one.sites[one.names[0]].sign_survivors(one.names[1:]),
        "leaves out this one",
    ),
    "too few signatures": (
        "reveal",
        lambda one: one.sites[one.names[0]].reveal(dict(list(one.signed.items())[:3])),
        "3 sites signed who remains, and at least 4",
    ),
    "shares before any list": (
        "signature", lambda one: one.sites[one.names[0]].reveal({}), "comes before their signatures",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_lie_of_the_coordinator_is_refused_at_the_site(name: str, tmp_path: Path) -> None:
    stage, lie, why = LIES[name]
    with pytest.raises(MessageError, match=why):
        lie(Round(tmp_path, 5, 4).to(stage))


def test_shares_of_other_secrets_are_noticed(tmp_path: Path) -> None:
    one = Round(tmp_path, 4, 3).to("reveal")
    right, other = one.names[0], Round(tmp_path / "other", 4, 3).to("reveal")
    one.sites[right] = other.sites[right]
    one.sites[right].reveal = lambda signed: (  # type: ignore[method-assign]  # a site that sends anything
        dict.fromkeys(one.names, "00" * 66), {}
    )  # fmt: skip
    with pytest.raises(LuthierError, match=r"not those that it announced|do not belong together"):
        one.reveal(one.names)


NAMES = ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    rows = examples(32)
    return build_sites(tmp_path_factory.mktemp("four"), {name: rows[at::4] for at, name in enumerate(NAMES)})


def losing(patch: pytest.MonkeyPatch, lost: dict[int, str], stop: int = -1) -> None:
    """From some messages on, a site does not answer; the coordinator dies after message `stop`."""
    exchange = LocalChannel.exchange

    def left(self: Any, number: int, contents: Any) -> Any:
        gone = {name for since, name in lost.items() if number >= since}
        found = exchange(self, number, {name: content for name, content in contents.items() if name not in gone})
        if number == stop:
            raise KeyboardInterrupt
        return found

    patch.setattr(LocalChannel, "exchange", left)


@pytest.mark.parametrize("since", [2, 3, 4])
def test_a_lost_site_is_left_out_and_counted(four: Sites, monkeypatch: pytest.MonkeyPatch, since: int) -> None:
    step = four.step(NAMES, rounds=1, sum="ffa", secure={}, least=3)
    losing(monkeypatch, {since: "c"})
    masked = four.federate(step, digest=f"{since}a" * 16)
    [record] = masked.read_json("federation.json")["rounds"]
    left = NAMES if since > 3 else ["a", "b", "d"]
    assert sorted(record["sites"]) == left
    assert record["missing"] == [name for name in NAMES if name not in left]
    monkeypatch.undo()
    losing(monkeypatch, {} if since > 3 else {1: "c"})
    plain = four.federate(four.step(NAMES, rounds=1, sum="ffa", least=3), digest=f"{since}b" * 16)
    one, other = (load_file(made.path(ADAPTER)) for made in (masked, plain))
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-6


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_coordinator_killed_within_a_round_goes_on_to_the_same_bytes(
    four: Sites, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    step = four.step(NAMES, rounds=1, sum="ffa", secure={}, least=3)
    losing(monkeypatch, {})
    whole = four.federate(step, digest=f"{stop}c" * 16).path(ADAPTER).read_bytes()
    monkeypatch.undo()
    losing(monkeypatch, {}, stop)
    with pytest.raises(KeyboardInterrupt):
        four.federate(step, digest=f"{stop}d" * 16)
    monkeypatch.undo()
    made = four.federate(step, digest=f"{stop}d" * 16)
    assert made.path(ADAPTER).read_bytes() == whole
    kept = four.work(step, digest=f"{stop}d" * 16).scratch
    assert not [*kept.rglob("unmasked*"), *kept.rglob("masks.json"), *kept.glob("replies")]


def test_too_few_sites_end_the_round_and_it_goes_on_when_they_are_back(
    four: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = four.step(NAMES, rounds=1, sum="ffa", secure={}, least=3)
    losing(monkeypatch, {3: "a", 4: "b"})
    with pytest.raises(LuthierError, match="2 sites signed who remains in round 1, and at least 3 are needed"):
        four.federate(step, digest="ea" * 16)
    monkeypatch.undo()
    made = four.federate(step, digest="ea" * 16)
    assert made.read_json("federation.json")["rounds"][0]["missing"] == ["a"]


def test_who_may_be_missing_is_limited(four: Sites) -> None:
    with pytest.raises(ValidationError, match="more than two thirds of the sites must remain: 3 of 4, got 2"):
        four.step(NAMES, secure={}, least=2)
    assert "sums over 3 sites or more alone" in four.step(NAMES, secure={}, least=3).describe_exchange(None)


def test_sites_killed_between_messages_go_on_to_the_same_bytes(four: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    step = four.step(NAMES, rounds=1, sum="ffa", secure={}, least=3)
    whole = four.federate(step, digest="fa" * 16).path(ADAPTER).read_bytes()
    exchange = LocalChannel.exchange

    def reviving(self: Any, number: int, contents: Any) -> Any:
        workers = {name: SiteWorker(name, one._work, masks=one._masks) for name, one in self._workers.items()}
        self._workers = workers
        found = exchange(self, number, contents)
        assert exchange(self, number, contents) == found, "the same question has the same answer"
        return found

    monkeypatch.setattr(LocalChannel, "exchange", reviving)
    assert four.federate(step, digest="fb" * 16).path(ADAPTER).read_bytes() == whole


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_process_killed_at_a_random_moment_is_left_out_or_counted(
    four: Sites, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    victim, at, wait = chance.choice(NAMES), chance.randint(1, 5), chance.random()
    exchange = ProcessesChannel.exchange

    def killing(self: ProcessesChannel, number: int, contents: Any) -> Any:
        timer = threading.Timer(wait, self._processes[victim].kill)
        if number == at:
            timer.start()
        try:
            return exchange(self, number, contents)
        finally:
            timer.cancel()

    monkeypatch.setattr(ProcessesChannel, "exchange", killing)
    transport = {"kind": "processes", "wait_s": 300}
    step = four.step(NAMES, rounds=1, sum="ffa", secure={}, least=3, transport=transport)
    [record] = four.federate(step, digest=f"{seed}e" * 16).read_json("federation.json")["rounds"]
    assert set(NAMES) - {victim} <= set(record["sites"])
    assert record["missing"] in ([], [victim])
    assert record["rows"] == 8 * len(record["sites"])
