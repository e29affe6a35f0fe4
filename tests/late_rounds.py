"""Sites that read a folder whenever the coordinator waits, by a clock of the test's own: some answer a later round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from federations import Sites
from luthier.federated.messaging import envelopes
from luthier.federated.messaging.keys import FederationIdentity
from luthier.federated.messaging.mailbox import FolderMailbox
from luthier.federated.messaging.messages import FederationMessage, RoundStart, RoundUpdate
from luthier.federated.sites.policy import SitePolicy
from luthier.federated.sites.server import SiteInputs, SiteServer
from luthier.federated.sites.worker import SiteWorker

NAMES = ["north", "south", "west"]
ADAPTER = "adapter/adapter_model.safetensors"
WAIT_S = 3600.0


@dataclass
class Rounds:
    """Sites that read a folder whenever the coordinator waits; some answer a round only when another one is on."""

    servers: dict[str, SiteServer]
    mail: Path
    keys: Path
    late: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """By site and the round that it is asked for: the round in which it answers."""
    killed: set[int] = field(default_factory=set)
    """Rounds in which the coordinator is killed once, after its sites answered."""
    now: float = 0.0
    federation: str = ""
    heard: dict[tuple[str, int], tuple[FederationMessage, FederationMessage]] = field(default_factory=dict)
    """What each site was asked and answered in each round."""

    def find_numbers(self, name: str) -> list[int]:
        """Numbers of the messages to a site."""
        return sorted(int(path.name.partition("-")[0]) for path in (self.mail / self.federation).glob(f"*-to-{name}"))

    def wait(self, seconds: float) -> None:
        """What happens while the coordinator waits."""
        number = max(number for name in NAMES for number in self.find_numbers(name))
        answered = 0
        for name, server in self.servers.items():
            asked = self.find_numbers(name)
            if asked and self.late.get((name, asked[-1]), 0) <= number:
                answered += server.answer_waiting()
        if number in self.killed:
            self.killed.remove(number)
            raise KeyboardInterrupt
        if not answered:
            self.now += WAIT_S

    @property
    def transport(self) -> dict[str, Any]:
        cards = {name: str(self.keys / name / "card.json") for name in NAMES}
        return {"kind": "folder", "path": str(self.mail), "keys": str(self.keys / "coordinator"),
                "member_cards": cards, "wait_s": WAIT_S}  # fmt: skip


def open_rounds(sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rounds:
    """Three sites, at which the test's clock says when the coordinator has waited long enough."""
    keys = {name: FederationIdentity.create(name) for name in ("coordinator", *NAMES)}
    for name, identity in keys.items():
        identity.write(tmp_path / name)
    servers = {}
    for name in NAMES:
        policy = SitePolicy.model_validate(
            {"name": name, "coordinator": "c", "recipe": "r", "approval": "never", "least_rows": 4}
        )
        inputs = SiteInputs(data=sites.data[name], model=sites.base)
        mailbox = FolderMailbox(tmp_path / "mail", name)
        servers[name] = SiteServer(tmp_path / name, keys[name], keys["coordinator"].card, mailbox, inputs, policy)
    found = Rounds(servers, tmp_path / "mail", tmp_path)
    monkeypatch.setattr(envelopes, "monotonic", lambda: found.now)
    monkeypatch.setattr(envelopes, "sleep", found.wait)
    answer = SiteWorker.answer

    def hearing(self: SiteWorker, number: int, content: bytes) -> bytes:
        reply = answer(self, number, content)
        if b'"kind": "round"' in content[:4096]:
            asked, got = FederationMessage.decode(content, RoundStart), FederationMessage.decode(reply, RoundUpdate)
            found.heard[self.name, number] = (asked, got)
        return reply

    monkeypatch.setattr(SiteWorker, "answer", hearing)
    return found


def federate(sites: Sites, served: Rounds, digest: str, **settings: Any) -> Any:
    served.federation = digest
    common = {"rounds": 4, "sum": "ffa", "local": {"steps": 1}, "least": 2, "transport": served.transport}
    return sites.federate(sites.step([], **{**common, **settings}), digest=digest)


def build_again(server: SiteServer) -> SiteServer:
    """The site's process after it was ended and begun again."""
    return SiteServer(
        server._folder, server._identity, server._coordinator, server._mailbox, server._inputs, server._policy
    )
