"""A site elsewhere, and somebody who writes to it: what tests of messages and faults throw at a site."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from federations import Sites
from luthier.federated.local_training import FederatedTraining, SiteUpdate
from luthier.federated.messaging.keys import FederationIdentity
from luthier.federated.messaging.mailbox import SiteMailbox
from luthier.federated.messaging.messages import (
    FederationMessage,
    Order,
    check_weights,
)
from luthier.federated.sites.ledger import SiteLedger
from luthier.federated.sites.policy import SitePolicy
from luthier.federated.sites.server import SiteInputs, SiteServer
from luthier.federated.transport import LocalChannel

FEDERATION = "ab" * 16
NAMES = ["north", "south"]


def policy(**settings: Any) -> SitePolicy:
    given = {"name": "north", "coordinator": "card.json", "recipe": "recipe.yaml", "approval": "never", "least_rows": 4}
    return SitePolicy.model_validate({**given, **settings})


def make_keys(root: Path) -> dict[str, FederationIdentity]:
    keys = {name: FederationIdentity.create(name) for name in ("coordinator", *NAMES)}
    for name, identity in keys.items():
        identity.write(root / name)
    return keys


def members(root: Path) -> dict[str, str]:
    return {name: str(root / name / "card.json") for name in NAMES}


@dataclass
class Fake(SiteMailbox):
    """A mailbox in memory, into which anybody throws."""

    waiting: list[bytes] = field(default_factory=list)
    sent: list[tuple[str, int, bytes]] = field(default_factory=list)

    def fetch(self) -> Iterator[bytes]:
        yield from list(self.waiting)
        self.waiting.clear()

    def answer(self, federation: str, number: int, envelope: bytes) -> None:
        self.sent.append((federation, number, envelope))


@dataclass
class Attack:
    """A site, and somebody who writes to it."""

    server: SiteServer
    mailbox: Fake
    keys: dict[str, FederationIdentity]
    order: Order
    start: bytes
    trained: list[int]

    def throw(self, content: bytes, number: int, by: str = "coordinator", federation: str = FEDERATION) -> list[Any]:
        """What the site answers to a message."""
        return self.throw_envelope(self.keys[by].seal(content, self.keys["north"].card, federation, number))

    def throw_envelope(self, envelope: bytes) -> list[Any]:
        before = len(self.mailbox.sent)
        self.mailbox.waiting.append(envelope)
        self.server.answer_waiting()
        card, coordinator = self.keys["north"].card, self.keys["coordinator"]
        return [coordinator.open(entry, card, name, number) for name, number, entry in self.mailbox.sent[before:]]

    def refusals(self) -> list[str]:
        return [entry.why for entry in SiteLedger(self.server._folder).read() if entry.way == "refused"]


def build_attack(sites: Sites, root: Path, patch: pytest.MonkeyPatch, **settings: Any) -> Attack:
    from luthier.federated import coordinator

    keys = make_keys(root) | {"stranger": FederationIdentity.create("coordinator")}
    step = sites.step(["north"], rounds=3, sum="ffa")
    federation = coordinator.Federation(step, sites.work(step))
    orders, starts = list[bytes](), list[bytes]()
    exchange = LocalChannel.exchange

    def noting(self: Any, number: int, contents: Any) -> Any:
        (starts if number else orders).extend(contents.values())
        if number:
            raise KeyboardInterrupt
        return exchange(self, number, contents)

    patch.setattr(LocalChannel, "exchange", noting)
    with pytest.raises(KeyboardInterrupt):
        federation.run()
    patch.undo()
    order = FederationMessage.decode(orders[0], Order).header.model_copy(update={"federation": FEDERATION})
    trained = list[int]()

    def training(self: FederatedTraining, given: Any, number: int, *rest: Any) -> SiteUpdate:
        trained.append(number)
        model = self.open_trainable({})
        own = {name: value for name, value in model.named_parameters() if value.requires_grad}
        check_weights(given.moving, {name: value.detach().float() for name, value in own.items()}, "it")
        moved = {name: value + 1 for name, value in given.moving.items() if "lora_B" in name}
        return SiteUpdate(moved, 24, 6, 1.5)

    patch.setattr(FederatedTraining, "train_round", training)
    mailbox = Fake()
    server = SiteServer(
        root / "north",
        keys["north"],
        keys["coordinator"].card,
        mailbox,
        SiteInputs(data=sites.data["north"], model=sites.base),
        policy(**settings),
    )
    return Attack(server, mailbox, keys, order, starts[0], trained)
