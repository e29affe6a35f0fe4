"""ε of a federation: noise is what was promised, sites count what all orders cost, and refuse past their budget."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from scipy.stats import kstest

from federations import Sites
from luthier.artifacts.training import TrainingRecord, describe_privacy
from luthier.core.errors import LuthierError
from luthier.federated.local_training import PrivateRoundSampler, RoundSampler
from luthier.federated.messaging.keys import EnvelopeHeader
from luthier.federated.messaging.messages import FederationMessage, Final, LocalWork, Rejection
from luthier.federated.personal.adapter import PersonalAdapter
from luthier.federated.privacy import (
    FederatedPrivacy,
    PrivacySpending,
    SpentPrivacy,
    average_clipped_updates,
    clip_change,
    covers,
    encode_change,
    find_site_noise,
    measure_norm,
)
from luthier.federated.secure_aggregation.masks import BoundError, MaskSettings, decode_sum
from luthier.federated.sites.ledger import SiteLedger
from luthier.federated.sites.worker import compute_training_code, read_order_settings
from luthier.federated.transport import LocalChannel
from luthier.tune.privacy.accountant import PrivacyAccount
from luthier.tune.privacy.noise import NoiseKey
from luthier.tune.privacy.sampler import PoissonSampler
from luthier.tune.training.schedule import BatchSampler
from site_attacks import FEDERATION, Attack, build_attack

ADAPTER = "adapter/adapter_model.safetensors"
OFF = {"on_loss_spike": "off"}
ROWS = {"epsilon": 8.0, "delta": 1e-3}
WHOLE = {"epsilon": 3.0, "delta": 1e-2, "unit": "site"}


def test_a_round_draws_units_by_chance_with_a_key_of_its_own() -> None:
    plain = BatchSampler(seed=1, count=40, epochs=4.0, batch_size=8)
    whole = PoissonSampler.of(plain, NoiseKey(b"k"), tuple((at,) for at in range(40)))
    rounds = [RoundSampler.for_round(whole, number, 4) for number in range(4)]
    assert all(isinstance(one, PrivateRoundSampler) for one in rounds)
    assert sum(one.steps for one in rounds) == whole.steps == 20
    drawn = [one.get_batch_indices(0) for one in rounds]
    assert len({tuple(some) for some in drawn}) == 4
    noise = [one.key.draw_normal("noise/0", [3]) for one in rounds if isinstance(one, PrivateRoundSampler)]
    assert not torch.equal(noise[0], noise[1])


def test_rows_are_promised_what_all_rounds_together_cost(fresh: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = list[Any]()
    iterate = LocalChannel.iterate_answers

    def hearing(self: Any, number: int, contents: Any) -> Iterator[tuple[str, bytes]]:
        for name, reply in iterate(self, number, contents):
            heard.append(reply)
            yield name, reply

    monkeypatch.setattr(LocalChannel, "iterate_answers", hearing)
    step = fresh.step(["north", "south"], sum="ffa", privacy=ROWS, tune=OFF, local={"epochs": 2})
    made = fresh.federate(step)
    record = TrainingRecord.read(made)
    assert describe_privacy(record) == "ε = 8 at δ = 0.001 for each row"
    assert step.describe_exchange(None).startswith(
        "ε = 8 at δ = 0.001 for each row; the coordinator can see the update"
    )
    assert not any(b'"loss": 0' in reply or b'"loss": 1' in reply for reply in heard), "losses have no noise"
    assert [entry["loss"] for entry in made.read_json("federation.json")["rounds"]] == [None, None]
    kept = fresh.work(step).scratch
    assert not list(kept.rglob("privacy.key")), "noise keys go when the federation ends"


@pytest.mark.parametrize("masks", [None, {}])
def test_noise_of_whole_sites_is_in_the_sum(sites: Sites, masks: dict[str, Any] | None) -> None:
    privacy = {"unit": "site", "epsilon": 1.0, "delta": 1e-2, "clip": 1e-3}
    step = sites.step(rounds=1, sum="ffa", privacy=privacy, secure=masks)
    made = load_file(sites.federate(step).path(ADAPTER))
    moved = torch.cat([value.flatten() for name, value in made.items() if "lora_B" in name])  # they begin at 0
    deviation = step.site_noise / 3
    assert float(moved.std()) == pytest.approx(deviation, rel=0.05)
    assert kstest(moved.numpy() / deviation, "norm").pvalue > 1e-4


def test_changes_of_whole_sites_arrive_where_noise_is_left_out(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.federated.sites import worker
    from luthier.federated.steps import federate

    for module in (worker, federate):
        monkeypatch.setattr(module, "find_site_noise", lambda privacy, rounds: 0.0)
    found = []
    for masks in (None, {}):
        privacy = {"unit": "site", "epsilon": 1.5, "delta": 1e-2, "clip": 0.05}
        step = sites.step(rounds=1, sum="ffa", privacy=privacy, secure=masks)
        made = load_file(sites.federate(step).path(ADAPTER))
        found.append(
            torch.cat([value.flatten() for name, value in made.items() if "lora_B" in name])
        )  # they begin at 0
    assert 0.01 < float(found[0].norm()) <= 0.05
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-7)


@pytest.mark.matrix("masks1")
@pytest.mark.parametrize("masks", [None, {}])
def test_a_killed_federation_with_noise_goes_on_to_the_same_bytes(
    fresh: Sites, monkeypatch: pytest.MonkeyPatch, masks: dict[str, Any] | None
) -> None:
    step = fresh.step(["north", "south", "west"], sum="ffa", privacy=WHOLE, secure=masks)
    iterate = LocalChannel.iterate_answers

    def dying(self: Any, number: int, contents: Any) -> Iterator[tuple[str, bytes]]:
        yield from iterate(self, number, contents)
        if number == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(LocalChannel, "iterate_answers", dying)
    with pytest.raises(KeyboardInterrupt):
        fresh.federate(step, digest="a1" * 16)
    scratch = fresh.work(step, digest="a1" * 16).scratch
    secrets = {path.relative_to(scratch): path.read_bytes() for path in scratch.rglob("privacy.key")}
    assert len(secrets) == (1 if masks is None else 3), "of the coordinator, or of each site"
    monkeypatch.undo()
    one = fresh.federate(step, digest="a1" * 16).path(ADAPTER).read_bytes()
    assert not list(scratch.rglob("privacy.key"))
    work = fresh.work(step, digest="a2" * 16)
    for path, secret in secrets.items():
        (work.scratch / path).parent.mkdir(parents=True, exist_ok=True)
        (work.scratch / path).write_bytes(secret)
    assert fresh.federate(step, digest="a2" * 16).path(ADAPTER).read_bytes() == one
    assert fresh.federate(step, digest="a3" * 16).path(ADAPTER).read_bytes() != one, "other noise in another run"


def test_a_change_is_clipped_and_its_share_of_noise_survives_the_ring() -> None:
    change = {"b": torch.full((30,), 2.0, dtype=torch.float64), "a": torch.full((10,), -1.0, dtype=torch.float64)}
    clipped = clip_change(change, 0.5)
    assert measure_norm(clipped) == pytest.approx(0.5)
    assert measure_norm(clip_change({"a": torch.tensor([math.nan, 1.0])}, 0.5)) == 0.0
    assert torch.equal(clip_change(change, 100.0)["b"], change["b"])
    settings = MaskSettings()
    exact = encode_change(clipped, settings, 4, 0.5, 0.0, 4, NoiseKey(b"k"), "x")
    numbers = exact.view(numpy.int64)[:-2].astype(float) / (1 << 34)
    assert numpy.linalg.norm(numbers) <= 0.5, "rounding never makes a change longer"
    zero = {name: torch.zeros(20_000, dtype=torch.float64) for name in ("a",)}
    encoded = [encode_change(zero, settings, 4, 0.5, 3.0, 4, NoiseKey(bytes([at])), "x") for at in range(4)]
    found = decode_sum(sum(encoded[1:], encoded[0]), zero, settings, 4, 3.0)
    assert found.rows == 4
    assert kstest(found.weights["a"].numpy() / (1.5 * 2 / 4), "norm").pvalue > 1e-4
    with pytest.raises(BoundError, match="does not fit in the ring"):
        encode_change(zero, settings, 4, 0.5, 1e8, 4, NoiseKey(b"k"), "x")
    mean = average_clipped_updates([clipped, change], 2, 0.5, 0.0, NoiseKey(b"k"), "x")
    torch.testing.assert_close(mean["b"], clipped["b"])


def test_the_promise_to_sites_is_the_accountants() -> None:
    privacy = FederatedPrivacy(**{**WHOLE, "epsilon": 2.0})
    noise = find_site_noise(privacy, 10)
    assert PrivacyAccount.of(noise, 1.0, 10).epsilon(privacy.delta) <= 2.0
    assert PrivacyAccount.of(noise - 0.003, 1.0, 10).epsilon(privacy.delta) > 2.0


def test_spending_adds_up_by_distributions_and_not_by_epsilon() -> None:
    one = PrivacySpending(unit="row", noise=1.0, sampling=0.1, steps=50)
    other = PrivacySpending(unit="row", noise=2.0, sampling=0.2, steps=50)
    once, both = (SpentPrivacy(some).count_epsilon(1e-5) for some in ((one,), (one, other)))
    right = PrivacyAccount.of(1.0, 0.1, 50).join(PrivacyAccount.of(2.0, 0.2, 50)).epsilon(1e-5)
    assert both == pytest.approx(right)
    assert once < both < once + SpentPrivacy((other,)).count_epsilon(1e-5)
    twice = SpentPrivacy((one, one)).count_epsilon(1e-5)
    assert twice == pytest.approx(PrivacyAccount.of(1.0, 0.1, 100).epsilon(1e-5))
    assert SpentPrivacy(()).count_epsilon(1e-5) == 0.0
    assert covers("site", "meta.customer")
    assert covers("meta.customer", "row")
    assert not covers("row", "site")


def private_attack(sites: Sites, root: Path, patch: pytest.MonkeyPatch, **settings: Any) -> Attack:
    attack = build_attack(sites, root, patch, delta=1e-3, **settings)
    tune = {**attack.order.tune, **OFF}
    privacy = FederatedPrivacy(epsilon=4.0, delta=1e-3)
    attack.order = attack.order.model_copy(update={"tune": tune, "privacy": privacy, "local": LocalWork(epochs=1)})
    return attack


def test_noise_is_enough_for_the_rounds_and_a_sites_own_adapter(fresh: Sites) -> None:
    """Both trainings read the same rows, so one promise covers the steps of both."""
    privacy = FederatedPrivacy(**ROWS)
    step = fresh.step(
        ["north", "south"], sum="ffa", privacy=ROWS, tune=OFF, local={"epochs": 2},
        personal={"kind": "adapter", "r": 2, "local": {"epochs": 3}},
    )  # fmt: skip
    made = fresh.federate(step)
    said = [text for text in fresh.said("note") if text.startswith("private:")]
    noise = {float(text.rpartition("noise of ")[2].partition(" ")[0]) for text in said if "24 units" in text}
    [told] = noise
    steps = 2 * 12 + 18  # of 24 rows, four a step: two rounds of two passes, and three passes after them
    account = PrivacyAccount.of(told, 4 / 24, steps)
    assert account.epsilon(1e-3) <= 8.0 < PrivacyAccount.of(told - 0.01, 4 / 24, steps).epsilon(1e-3)
    folder = made.path(made.read_json("federation.json")["personal"]["sites"]["north"])
    record = TrainingRecord.model_validate_json((folder / "training.json").read_text())
    assert describe_privacy(record) == privacy.describe()
    assert not list(fresh.store.root.rglob("privacy.key"))


def test_a_model_with_a_part_without_noise_says_that_it_promises_nothing(fresh: Sites) -> None:
    whole = {"unit": "site", "epsilon": 50.0, "delta": 1e-2, "clip": 0.1}
    made = fresh.federate(fresh.step(["north", "south"], sum="mean", privacy=whole, personal="lora_b", rounds=1))
    folder = made.path(made.read_json("federation.json")["personal"]["sites"]["north"])
    told = describe_privacy(TrainingRecord.model_validate_json((folder / "training.json").read_text()))
    assert told == ("no promise of differential privacy for each site: a part of this model was trained without noise")


def test_a_sites_log_counts_its_own_training_too(sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = private_attack(sites, tmp_path, monkeypatch, epsilon=4.1)
    personal = {"kind": "adapter", "r": 2, "local": {"epochs": 2}}
    code = compute_training_code(*read_order_settings(attack.order), PersonalAdapter.parse(personal))
    order = attack.order = attack.order.model_copy(update={"personal": personal, "code": code})
    assert len(attack.throw(FederationMessage(order).encode(), 0)) == 1
    worker = attack.server._worker(attack_header(0))
    whole, ends = worker.plan_spending(), worker.plan_spending(order.last_number)
    rounds = [worker.plan_spending(number) for number in range(1, order.rounds + 1)]
    assert whole is not None
    assert ends is not None
    assert sum(entry.steps for entry in rounds if entry is not None) + ends.steps == whole.steps
    assert {entry.noise for entry in (*rounds, ends) if entry is not None} == {whole.noise}
    assert SpentPrivacy((whole,)).count_epsilon(1e-3) <= 4.0
    final = FederationMessage(Final()).encode()
    header = attack_header(order.last_number)
    spent, refused = attack.server._plan_spending(header, FederationMessage.decode(final, Final))
    assert (spent, refused) == (ends, None)


def attack_header(number: int) -> EnvelopeHeader:
    return EnvelopeHeader(federation=FEDERATION, number=number, sender="0" * 64, reader="0" * 64)


def refusal(replies: list[Any]) -> str:
    [reply] = replies
    return str(FederationMessage.decode(reply, Rejection).header.message)


def test_a_sites_log_adds_up_what_all_orders_cost(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = private_attack(sites, tmp_path, monkeypatch, epsilon=4.1)
    attack.throw(FederationMessage(attack.order).encode(), 0)
    for _ in range(3):  # a repeated round is answered by the same bytes, and costs once
        assert len(attack.throw(attack.start, 1)) == 1
    ledger = SiteLedger(attack.server._folder)
    [spent] = ledger.list_spent(lambda entry: False)
    assert (spent.unit, spent.steps) == ("row", 6)
    assert 0 < SpentPrivacy((spent,)).count_epsilon(1e-3) < 4.0
    other = attack.order.model_copy(update={"federation": "cd" * 16})
    said = refusal(attack.throw(FederationMessage(other).encode(), 0, federation="cd" * 16))
    assert "the order would bring epsilon from" in said
    assert "and the budget is 4.1" in said
    assert attack.throw(attack.start, 1, federation="cd" * 16) == [], "its order was never taken"
    assert attack.trained == [0]


@pytest.mark.parametrize(
    ("policy", "order", "why"),
    [
        ({"epsilon": 3.0}, {}, r"from 0 to 3\.9\d* at delta 0.001, and the budget is 3"),
        ({"epsilon": 9.0}, {"privacy": None}, "makes no promise"),
        ({"epsilon": 9.0, "unit": "meta.customer"}, {}, "protects each row, not each meta.customer"),
        ({"epsilon": 9.0}, {"privacy": FederatedPrivacy(**WHOLE)}, "the coordinator itself would add the noise"),
        ({"metrics": ["accuracy"]}, {"metrics": [{"kind": "accuracy"}]}, "sums over held-out rows have no noise"),
    ],
)
def test_an_order_beyond_the_budget_is_refused_with_the_line(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Any, order: Any, why: str
) -> None:
    attack = private_attack(sites, tmp_path, monkeypatch, **policy)
    said = refusal(attack.throw(FederationMessage(attack.order.model_copy(update=order)).encode(), 0))
    assert re.search(why, said)
    assert attack.throw(attack.start, 1) == []
    assert attack.trained == []
    assert FEDERATION not in said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tune": {"objective": "classify", **OFF}}, "names of classes come from rows without noise"),
        ({"metrics": ["accuracy"], "tune": OFF}, "sums over held-out rows have no noise"),
        ({"privacy": WHOLE, "sum": "stack"}, "only a mean of whole updates can be clipped"),
        ({"tune": {}}, "on_loss_spike: it looks at losses without noise"),
        ({"tune": {"privacy": {"epsilon": 1}, **OFF}, "privacy": None}, "write `privacy` of the step itself"),
        ({"tune": {"curriculum": {}, **OFF}}, "curriculum: it puts rows in an order"),
    ],
)
def test_what_peeks_at_private_rows_is_refused(sites: Sites, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValidationError, LuthierError), match=message):
        sites.step(**{"privacy": ROWS, "sum": "ffa", **settings})
