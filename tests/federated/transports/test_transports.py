"""Sites elsewhere: the same bytes by every transport, and one clear error for each attack; nothing leaves for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from federations import Sites
from luthier.core.component import components_by_kind
from luthier.core.errors import LuthierError
from luthier.federated.errors import MessageError
from luthier.federated.local_training import FederatedTraining, SiteUpdate
from luthier.federated.messaging.keys import FederationIdentity, PublicCard
from luthier.federated.messaging.mailbox import FolderMailbox, HttpMailbox, SiteMailbox
from luthier.federated.messaging.messages import (
    Enrolled,
    FederationMessage,
    RoundStart,
    RoundUpdate,
    pack_weights,
    unpack_weights,
)
from luthier.federated.sites.ledger import SiteLedger
from luthier.federated.sites.policy import HttpAddress, SitePolicy
from luthier.federated.sites.server import SiteInputs, SiteServer
from luthier.federated.sites.worker import SiteWorker
from luthier.federated.transport import Transport
from site_attacks import FEDERATION, NAMES, Attack, build_attack, make_keys, members, policy

ADAPTER = "adapter/adapter_model.safetensors"


@pytest.fixture
def serve(sites: Sites, tmp_path: Path) -> Iterator[Callable[..., list[SiteServer]]]:
    """Start sites in a thread, which answer one after another until the test ends."""
    stop, threads = threading.Event(), list[threading.Thread]()

    def start(
        keys: dict[str, FederationIdentity], mailboxes: dict[str, SiteMailbox], **settings: Any
    ) -> list[SiteServer]:
        servers = [
            SiteServer(
                tmp_path / name,
                keys[name],
                keys["coordinator"].card,
                mailbox,
                SiteInputs(data=sites.data[name], model=sites.base),
                policy(name=name, **settings),
            )
            for name, mailbox in mailboxes.items()
        ]

        def run() -> None:
            while not stop.wait(0.05):
                for server in servers:
                    server.answer_waiting()

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return servers

    yield start
    stop.set()
    for thread in threads:
        thread.join()


def remote(sites: Sites, transport: dict[str, Any], **settings: Any) -> Any:
    return sites.step([], rounds=2, sum="ffa", transport={"wait_s": 120, **transport}, **settings)


def weights_of(artifact: Any) -> str:
    return next(str(entry.digest) for entry in artifact.manifest.files if entry.path == ADAPTER)


@pytest.fixture(scope="module")
def here(sites: Sites) -> str:
    """The weights of the same federation in one process."""
    return weights_of(sites.federate(sites.step(NAMES, rounds=2, sum="ffa")))


def test_every_transport_is_documented() -> None:
    from documented import undescribed

    for kind, transport in components_by_kind(Transport).items():
        assert len(transport.summary()) > 20, kind
        assert undescribed(transport) == []


def test_messages_through_a_folder_make_the_same_model(
    sites: Sites, here: str, tmp_path: Path, serve: Callable[..., list[SiteServer]]
) -> None:
    keys, mail = make_keys(tmp_path), tmp_path / "mail"
    transport = {
        "kind": "folder", "path": str(mail), "keys": str(tmp_path / "coordinator"), "member_cards": members(tmp_path)
    }  # fmt: skip
    serve(keys, {name: FolderMailbox(mail, name) for name in NAMES})
    assert weights_of(sites.federate(remote(sites, transport), digest="1f" * 16)) == here
    log = SiteLedger(tmp_path / "north").read()
    assert [(entry.way, entry.kind) for entry in log[:4]] == [
        ("in", "order"), ("out", "enrolled"), ("in", "round"), ("out", "update")
    ]  # fmt: skip
    for path in mail.rglob("*"):
        assert path.is_dir() or b"lora_B" not in path.read_bytes(), "what lies in the folder is encrypted"


def test_so_do_messages_over_http(
    sites: Sites, here: str, tmp_path: Path, serve: Callable[..., list[SiteServer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.federated.transports import http

    keys = make_keys(tmp_path)
    opened = http.HttpPost.__init__

    def opening(self: http.HttpPost, *arguments: Any) -> None:
        opened(self, *arguments)
        address = HttpAddress(url=self.url)
        serve(keys, {name: HttpMailbox(address, name, policy()) for name in NAMES})

    monkeypatch.setattr(http.HttpPost, "__init__", opening)
    transport = {
        "kind": "http", "port": 0, "keys": str(tmp_path / "coordinator"), "member_cards": members(tmp_path)
    }  # fmt: skip
    assert weights_of(sites.federate(remote(sites, transport), digest="2f" * 16)) == here


@pytest.mark.slow
def test_so_does_a_process_for_each_site(sites: Sites, here: str) -> None:
    step = sites.step(NAMES, rounds=2, sum="ffa", transport={"kind": "processes", "wait_s": 300})
    assert weights_of(sites.federate(step, digest="3f" * 16)) == here


@pytest.fixture
def attack(sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attack:
    """A site that took an order and can train; training itself is left out."""
    return build_attack(sites, tmp_path, monkeypatch)


def test_an_honest_coordinator_is_answered_and_may_ask_again(attack: Attack) -> None:
    [enrolled] = attack.throw(FederationMessage(attack.order).encode(), 0)
    assert FederationMessage.decode(enrolled, Enrolled).header.rows == 24
    [update] = attack.throw(attack.start, 1)
    assert FederationMessage.decode(update, RoundUpdate).header.round == 1
    assert attack.throw(attack.start, 1) == [update], "the same question has the same answer, computed once"
    assert attack.trained == [0]
    assert SiteLedger(attack.server._folder).count_answered() == 1


def changed(start: bytes, **fields: Any) -> bytes:
    """A round's message with other weights or another header."""
    message = FederationMessage.decode(start, RoundStart)
    given = unpack_weights(message.tensors)
    name = next(iter(given.moving))
    if "weight" in fields:
        given.moving[name] = fields.pop("weight")(given.moving[name])  # type: ignore[index]  # a dict underneath
    return FederationMessage(message.header.model_copy(update=fields), pack_weights(given)).encode()


ATTACKS: dict[str, tuple[Callable[[Attack], list[Any]], str]] = {
    "a swapped key": (lambda a: a.throw(a.start, 1, by="stranger"), "is not the key of coordinator"),
    "a swapped reader": (
        lambda a: a.throw_envelope(a.keys["coordinator"].seal(a.start, a.keys["south"].card, FEDERATION, 1)),
        "for another reader",
    ),
    "a changed byte": (lambda a: a.throw_envelope(flip(a)), "is not signed by coordinator"),
    "no envelope": (lambda a: a.throw_envelope(b"rows, please"), "no envelope of a federation"),
    "another recipe": (
        lambda a: a.throw(FederationMessage(a.order.model_copy(update={"rounds": 2})).encode(), 0),
        "came before with other contents",
    ),
    "another federation's round": (lambda a: a.throw(a.start, 1, federation="cd" * 16), "comes before its order"),
    "another round's number": (lambda a: a.throw(a.start, 2), "asks for round 1"),
    "a round too many": (lambda a: a.throw(changed(a.start, round=4), 4), "asks for round 4 of 3"),
    "a number that is none": (
        lambda a: a.throw(changed(a.start, weight=lambda value: value * float("nan")), 1),
        "not finite",
    ),
    "another shape": (
        lambda a: a.throw(changed(a.start, weight=lambda value: value.new_zeros(3, 3)), 1),
        "where torch.float32",
    ),
    "a repeated round": (
        lambda a: (a.throw(a.start, 1), a.throw(changed(a.start, weight=lambda value: value + 1), 1))[1],
        "came before with other contents",
    ),
    "an answer in place of a question": (
        lambda a: a.throw(FederationMessage(Enrolled(rows=3)).encode(), 1),
        "expected a message of kind",
    ),
}  # fmt: skip


def flip(attack: Attack) -> bytes:
    envelope = bytearray(attack.keys["coordinator"].seal(attack.start, attack.keys["north"].card, FEDERATION, 1))
    envelope[len(envelope) // 2] ^= 1
    return bytes(envelope)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_on_a_site_is_one_clear_error_and_nothing_leaves(attack: Attack, name: str) -> None:
    throw, why = ATTACKS[name]
    assert len(attack.throw(FederationMessage(attack.order).encode(), 0)) == 1
    assert throw(attack) == []
    [refused] = attack.refusals()
    assert why in refused


ORDERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "technique": ({}, {"tune": {"technique": "full"}, "sum": {"kind": "mean"}}, "technique full is not allowed"),
    "objective": ({"objectives": ["dpo"]}, {}, "objective sft is not allowed"),
    "sum": ({"sums": ["mean"]}, {}, "sums by ffa are not allowed"),
    "rounds": ({"rounds": 2}, {}, "at most 2 rounds, got 3"),
    "rows": ({"least_rows": 25}, {}, "too few training rows"),
    "base": ({"bases": ["0" * 12]}, {}, "is not among those that may be tuned"),
    "metric": ({}, {"metrics": [{"kind": "accuracy"}]}, "sums of accuracy may not be sent"),
    "class names": (
        {"objectives": ["classify"]}, {"tune": {"objective": "classify"}, "wants_classes": True}, "names of classes"
    ),
    "a tracker": ({}, {"tune": {"report_to": ["tensorboard"]}}, "is not allowed"),
    "an endpoint": (
        {"objectives": ["grpo"]},
        {"tune": {"objective": {"kind": "grpo", "rewards": [{"kind": "length", "free": 2, "max": 4}],
                  "rollout": {"writer": {"kind": "endpoint", "url": "http://coordinator.example/v1", "model": "m"}}}}},
        "is not allowed",
    ),
    "another base": ({}, {"base": "f" * 64}, "the order is for ffffffffffff"),
    "other code": ({}, {"code": "f" * 64}, "the code that trains here is"),
    "all rounds used up": ({"total_rounds": 1}, {}, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in ORDERS if name != "all rounds used up"])
def test_an_order_that_breaks_the_policy_is_refused_with_the_line(
    name: str, sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, changes, why = ORDERS[name]
    attack = build_attack(sites, tmp_path, monkeypatch, **settings)
    tune = {**attack.order.tune, **changes.pop("tune", {})}
    order = attack.order.model_copy(update={"tune": tune, **changes})
    replies = attack.throw(FederationMessage(order).encode(), 0)
    said = FederationMessage.decode(replies[0], *[type(_refusal())]).header.message if replies else attack.refusals()[0]
    assert why in said
    assert attack.throw(attack.start, 1) == []
    assert attack.trained == []


def _refusal() -> Any:
    from luthier.federated.messaging.messages import Rejection

    return Rejection(message="")


def test_a_budget_of_rounds_holds_over_all_federations(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = build_attack(sites, tmp_path, monkeypatch, total_rounds=1)
    attack.throw(FederationMessage(attack.order).encode(), 0)
    assert len(attack.throw(attack.start, 1)) == 1
    other = "cd" * 16
    replies = attack.throw(
        FederationMessage(attack.order.model_copy(update={"federation": other})).encode(), 0, federation=other
    )
    assert "1 rounds are done, at most 1" in FederationMessage.decode(replies[0], type(_refusal())).header.message


def test_an_order_waits_for_a_person(sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.federated.sites.server import approve_order

    attack = build_attack(sites, tmp_path, monkeypatch, approval="always")
    content = FederationMessage(attack.order).encode()
    assert attack.throw(content, 0) == []
    assert approve_order(tmp_path / "north", FEDERATION[:12]) == FEDERATION
    assert len(attack.throw(content, 0)) == 1


def test_the_policy_names_its_line_and_unknown_settings(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("name: north\ncoordinator: c\nrecipe: r\n# a word\nrounds: 2\n")
    assert str(SitePolicy.read(tmp_path).build_refusal("rounds", "no")) == "policy.yaml:5: no"
    path.write_text("name: north\ncoordinator: c\nrecipe: r\nround: 2\n")
    with pytest.raises(LuthierError, match=r"policy.yaml:4") as caught:
        SitePolicy.read(tmp_path)
    assert "there is no setting 'round' here" in str(caught.value)
    assert "did you mean 'rounds'" in caught.value.hint
    path.write_text("name: north\ncoordinator: c\nrecipe: r\nhttp: {url: 'https://c', cert: x}\n")
    with pytest.raises(LuthierError, match=r"policy.yaml:4 \(http.cert\): there is no setting 'cert'") as caught:
        SitePolicy.read(tmp_path)
    assert "certificate" in caught.value.hint
    path.write_text("name: north\ncoordinator: c\nrecipe: r\nrounds: many\n")
    with pytest.raises(LuthierError, match=r"policy.yaml:4 \(rounds\): rounds should be .*, got 'many'"):
        SitePolicy.read(tmp_path)
    path.write_text("name: north\nrecipe: r\n")
    with pytest.raises(LuthierError, match="coordinator is required"):
        SitePolicy.read(tmp_path)


def test_a_card_or_a_log_names_what_is_unknown_in_it(tmp_path: Path) -> None:
    FederationIdentity.create("north").write(tmp_path)
    card = tmp_path / "card.json"
    card.write_text(card.read_text().replace('"sign"', '"signs"'))
    with pytest.raises(LuthierError, match="is no card with public keys: sign is required"):
        PublicCard.read(card)
    card.write_text(card.read_text().replace('"signs"', '"sign"').replace('"name"', '"names": "x", "name"'))
    with pytest.raises(LuthierError, match="there is no setting 'names' here") as caught:
        PublicCard.read(card)
    assert "did you mean 'name'" in caught.value.hint
    (tmp_path / "log.jsonl").write_text('{"at": "now", "shape": 3}\n')
    with pytest.raises(LuthierError, match=r"a line was changed or left out \(federation is required\)"):
        SiteLedger(tmp_path).read()


def test_a_changed_log_is_noticed(attack: Attack) -> None:
    attack.throw(FederationMessage(attack.order).encode(), 0)
    attack.throw(attack.start, 1)
    path = attack.server._folder / "log.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0].replace(b'"bytes": ', b'"bytes": 1'), *lines[1:]]))
    with pytest.raises(LuthierError, match="the chain of the log is broken"):
        SiteLedger(attack.server._folder).read()
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    with pytest.raises(LuthierError, match="a line was changed or left out"):
        attack.throw(attack.start, 1)


def test_keys_that_others_may_read_are_refused(tmp_path: Path) -> None:
    FederationIdentity.create("north").write(tmp_path / "north")
    (tmp_path / "north" / "private.key").chmod(0o644)
    with pytest.raises(LuthierError, match="can be read by others"):
        FederationIdentity.read(tmp_path / "north")
    assert PublicCard.read(tmp_path / "north" / "card.json").name == "north"


def forge(change: Callable[[FederationMessage], FederationMessage]) -> Callable[[SiteWorker, int, bytes], bytes]:
    answer = SiteWorker.answer

    def forging(self: SiteWorker, number: int, content: bytes) -> bytes:
        reply = answer(self, number, content)
        if number != 1 or self.name != "south":
            return reply
        return change(FederationMessage.decode(reply, RoundUpdate)).encode()

    return forging


def with_header(message: FederationMessage, **fields: Any) -> FederationMessage:
    return FederationMessage(message.header.model_copy(update=fields), message.tensors)


def with_tensor(message: FederationMessage, change: Callable[[torch.Tensor], torch.Tensor]) -> FederationMessage:
    name = next(iter(message.tensors))
    return FederationMessage(message.header, {**message.tensors, name: change(message.tensors[name])})


FORGED: dict[str, tuple[Callable[[FederationMessage], FederationMessage], str]] = {
    "a number that is none": (lambda m: with_tensor(m, lambda value: value / 0), "not finite"),
    "another shape": (lambda m: with_tensor(m, lambda value: value[:1]), "site south sends .* as torch.float32"),
    "another type": (lambda m: with_tensor(m, lambda value: value.double()), "as torch.float64"),
    "another round": (lambda m: with_header(m, round=2), "its update of round 2 in round 1"),
    "an answer to other weights": (lambda m: with_header(m, answers="0" * 64), "its update of round 1 in round 1"),
    "a missing weight": (
        lambda m: FederationMessage(m.header, dict(list(m.tensors.items())[1:])), "other weights than were asked for"
    ),
    "a weight too many": (
        lambda m: FederationMessage(m.header, {**m.tensors, "rows": torch.ones(3)}),
        "other weights than were asked for: rows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_an_attack_on_the_coordinator_is_one_clear_error(
    name: str, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, why = FORGED[name]

    def training(self: FederatedTraining, given: Any, number: int, *rest: Any) -> SiteUpdate:
        return SiteUpdate({key: value + 1 for key, value in given.moving.items() if "lora_B" in key}, 8, 2, 1.0)

    monkeypatch.setattr(FederatedTraining, "train_round", training)
    monkeypatch.setattr(SiteWorker, "answer", forge(change))
    step = sites.step(NAMES, rounds=2, sum="ffa")
    work = sites.work(step, digest=f"{sorted(FORGED).index(name):02x}" * 16)
    with pytest.raises(MessageError, match=why):
        step.make(work)
    assert not any(work.folder.iterdir())
