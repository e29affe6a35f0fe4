"""Federations whose sites leave out what others hold out: the same bytes by every transport and after a kill, and
refusals by the policy."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from federations import Sites, build_sites
from luthier.artifacts.dataset import read_examples
from luthier.chat.messages import Example
from luthier.core.errors import LuthierError
from luthier.core.step import PlanContext
from luthier.federated.decontamination.settings import DecontaminationSettings
from luthier.federated.messaging.keys import FederationIdentity
from luthier.federated.messaging.mailbox import FolderMailbox, HttpMailbox, SiteMailbox
from luthier.federated.messaging.messages import (
    BlindRequest,
    ComparisonRequest,
    FederationMessage,
    LeaveOutRequest,
    pack_tensors,
)
from luthier.federated.sites.ledger import SiteLedger
from luthier.federated.sites.policy import HttpAddress
from luthier.federated.sites.server import SiteInputs, SiteServer
from luthier.federated.sites.worker import SiteWorker
from luthier.federated.transport import LocalChannel
from site_attacks import FEDERATION, Attack, build_attack, policy
from tuning import chat

NAMES = ["north", "south"]
ADAPTER = "adapter/adapter_model.safetensors"
COPIES = 5


def build_rows() -> dict[str, list[Example]]:
    """Of each site, the first eight rows are held out, too; north also trains on copies of five of south's."""
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(200)]
    answers = ["billing", "account", "delivery"]
    rows = [chat(" ".join(chance.choices(words, k=9)), answers[at % 3], at) for at in range(32)]
    copies = [
        chat(f"{row.messages[1].content}!", str(row.label), 100 + at) for at, row in enumerate(rows[12 : 12 + COPIES])
    ]
    return {"north": [*rows[:12], *copies], "south": rows[12:24], "west": rows[24:32]}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    return build_sites(tmp_path_factory.mktemp("both"), build_rows())


def weights_of(artifact: Any) -> str:
    return next(str(entry.digest) for entry in artifact.manifest.files if entry.path == ADAPTER)


def step_of(sites: Sites, names: list[str], **settings: Any) -> Any:
    return sites.step(names, rounds=2, sum="ffa", **{"decontaminate": {}, **settings})


@pytest.fixture(scope="module")
def here(both: Sites) -> Any:
    return both.federate(step_of(both, NAMES))


def test_sites_train_as_if_the_rows_had_never_been_there(both: Sites, here: Any, tmp_path: Path) -> None:
    rows = build_rows()
    cleaned = build_sites(tmp_path, {**rows, "north": rows["north"][:12]})
    plain = cleaned.federate(cleaned.step(NAMES, rounds=2, sum="ffa"))
    assert weights_of(here) == weights_of(plain)
    assert weights_of(here) != weights_of(both.federate(both.step(NAMES, rounds=2, sum="ffa")))
    record = here.read_json("federation.json")
    assert record["left_out"] == {"north": COPIES, "south": 0}
    assert [entry["sites"]["north"]["rows"] for entry in record["rounds"]] == [12, 12]
    assert "sites left out near copies of rows that others hold out (5 at north, 0 at south)" in both.said("note")


def test_metrics_are_of_all_held_out_rows(both: Sites) -> None:
    made = both.federate(step_of(both, NAMES, metrics=["exact_match"]))
    held = [len(read_examples(both.data[name], "test")) for name in NAMES]
    assert made.read_json("federation.json")["metrics"]["exact_match"]["rows"] == sum(held)


@pytest.mark.slow
def test_under_masks_no_count_is_told(both: Sites) -> None:
    made = both.federate(both.step(rounds=1, sum="ffa", secure={}, decontaminate={"threshold": 0.9}))
    record = made.read_json("federation.json")
    assert record["left_out"] == {"north": None, "south": None, "west": None}
    assert record["rounds"][0]["rows"] == 12 + 12 + 8


@dataclass
class Elsewhere:
    """Sites that are served in a thread, with the cards of their peers, and a coordinator's keys."""

    sites: Sites
    root: Path
    keys: dict[str, FederationIdentity]
    stop: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def serve(self, open_mailbox: Callable[[str], SiteMailbox], **settings: Any) -> None:
        """Start the sites; each has a policy, and fetches its messages from the mailbox that is opened for it."""
        servers = [self.build_server(name, open_mailbox(name), **settings) for name in NAMES]

        def run() -> None:
            while not self.stop.wait(0.05):
                for server in servers:
                    server.answer_waiting()

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def build_server(self, name: str, mailbox: SiteMailbox, **settings: Any) -> SiteServer:
        peers = tuple(self.keys[other].card for other in NAMES if other != name)
        return SiteServer(
            self.root / name,
            self.keys[name],
            self.keys["coordinator"].card,
            mailbox,
            SiteInputs(data=self.sites.data[name], model=self.sites.base, peers=peers),
            policy(**{"name": name, "decontaminate": True, "most_left_out": 0.5, **settings}),
        )

    def federate(self, transport: dict[str, Any], digest: str, **settings: Any) -> Any:
        cards = {name: str(self.root / name / "card.json") for name in NAMES}
        about = {"keys": str(self.root / "coordinator"), "member_cards": cards, "wait_s": 120, **transport}
        return self.sites.federate(step_of(self.sites, [], transport=about, **settings), digest=digest)

    def federate_through_folder(self, digest: str, **settings: Any) -> Any:
        mail = self.root / "mail"
        self.serve(lambda name: FolderMailbox(mail, name), **settings)
        return self.federate({"kind": "folder", "path": str(mail)}, digest)

    def read_log(self, name: str) -> list[Any]:
        return SiteLedger(self.root / name).read()


@pytest.fixture
def elsewhere(both: Sites, tmp_path: Path) -> Iterator[Elsewhere]:
    keys = {name: FederationIdentity.create(name) for name in ("coordinator", *NAMES)}
    for name, own in keys.items():
        own.write(tmp_path / name)
    made = Elsewhere(both, tmp_path, keys)
    yield made
    made.stop.set()
    for thread in made.threads:
        thread.join()


def test_messages_through_a_folder_make_the_same_model(here: Any, elsewhere: Elsewhere) -> None:
    """The log tells how many rows were left out; the coordinator hears it from ten rows on alone."""
    made = elsewhere.federate_through_folder("1f" * 16)
    assert weights_of(made) == weights_of(here)
    assert made.read_json("federation.json")["left_out"] == {"north": None, "south": None}
    log = elsewhere.read_log("north")
    kinds = ["order", "enrolled", "blind_request", "blinded_rows", "comparison_request", "evaluated_rows",
             "candidate_request", "blinded_rows", "comparison_request", "evaluated_rows",
             "leave_out_request", "remaining_rows", "round", "update"]  # fmt: skip
    assert [entry.kind for entry in log[:14]] == kinds
    assert log[11].why == "5 training rows left out"


def test_so_do_messages_over_http_whose_answers_are_larger_than_their_questions(
    here: Any, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.federated.transports import http

    opened = http.HttpPost.__init__
    monkeypatch.setattr(http, "SPARE", 2048)

    def opening(self: http.HttpPost, *arguments: Any) -> None:
        opened(self, *arguments)
        address = HttpAddress(url=self.url)
        elsewhere.serve(lambda name: HttpMailbox(address, name, policy()))

    monkeypatch.setattr(http.HttpPost, "__init__", opening)
    assert weights_of(elsewhere.federate({"kind": "http", "port": 0}, "2f" * 16)) == weights_of(here)


@pytest.mark.slow
def test_so_does_a_process_for_each_site(both: Sites, here: Any) -> None:
    step = step_of(both, NAMES, transport={"kind": "processes", "wait_s": 300})
    assert weights_of(both.federate(step, digest="3f" * 16)) == weights_of(here)


@pytest.mark.matrix("before-4", "after-3")
@pytest.mark.parametrize("number", [1, 3, 4, 5])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_coordinator_that_is_killed_goes_on_to_the_same_bytes(
    both: Sites, here: Any, monkeypatch: pytest.MonkeyPatch, number: int, before: bool
) -> None:
    """Killed before a message goes out, or when one site answered it: each site computes each answer once."""
    digest, exchange = f"{number}{int(before)}" * 16, LocalChannel.exchange
    computed = list[tuple[int, str]]()
    answer = SiteWorker._compute

    def counting(self: SiteWorker, at: int, content: bytes) -> bytes:
        computed.append((at, self.name))
        return answer(self, at, content)

    def killed(self: LocalChannel, at: int, contents: Any) -> Any:
        if at == number:
            if not before:
                exchange(self, at, dict([next(iter(contents.items()))]))
            raise KeyboardInterrupt
        return exchange(self, at, contents)

    monkeypatch.setattr(SiteWorker, "_compute", counting)
    monkeypatch.setattr(LocalChannel, "exchange", killed)
    with pytest.raises(KeyboardInterrupt):
        both.federate(step_of(both, NAMES), digest=digest)
    monkeypatch.setattr(LocalChannel, "exchange", exchange)
    made = both.federate(step_of(both, NAMES), digest=digest)
    assert weights_of(made) == weights_of(here)
    assert made.read_json("federation.json") == here.read_json("federation.json")
    assert len(set(computed)) == len(computed)


POLICIES: list[tuple[dict[str, Any], str]] = [
    ({"decontaminate": False}, r"decontaminate.*the order compares rows across sites"),
    ({"most_compared_rows": 500}, r"most_compared_rows.*compares up to 20,000 rows, at most 500"),
    ({"most_left_out": 0.1}, r"most_left_out.*more than 10.0% of the training rows"),
    ({"least_rows": 13}, r"least_rows.*too few training rows"),
]


@pytest.mark.parametrize(("settings", "why"), POLICIES)
def test_a_policy_refuses_what_it_does_not_allow(elsewhere: Elsewhere, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(LuthierError, match=rf"site (north|south) refuses: policy.yaml \({why}") as refused:
        elsewhere.federate_through_folder("4f" * 16, **settings)
    assert "5" not in str(refused.value).partition("refuses")[2].replace("500", "")


@pytest.fixture
def attack(both: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attack:
    """North, with south as its peer, and somebody with the coordinator's keys."""
    attack = build_attack(both, tmp_path, monkeypatch)
    attack.server._inputs = SiteInputs(data=both.data["north"], model=both.base, peers=(attack.keys["south"].card,))
    attack.server._policy = policy(decontaminate=True, most_left_out=0.5)
    group = sorted(attack.keys[name].card.fingerprint for name in NAMES)
    about = {"decontaminate": DecontaminationSettings(), "compared": group}
    attack.order = attack.order.model_copy(update=about)
    return attack


@pytest.mark.parametrize("others", [[], ["stranger"], ["south", "stranger"]])
def test_a_site_compares_rows_with_the_peers_of_its_own_policy_alone(attack: Attack, others: list[str]) -> None:
    group = sorted(attack.keys[name].card.fingerprint for name in ("north", *others))
    order = attack.order.model_copy(update={"compared": group})
    [reply] = attack.throw(FederationMessage(order).encode(), 0)
    assert b"among other sites than this site and its peers" in reply


def test_a_coordinator_cannot_skip_repeat_or_reorder_the_comparison(attack: Attack) -> None:
    blind = FederationMessage(BlindRequest()).encode()
    assert len(attack.throw(FederationMessage(attack.order).encode(), 0)) == 1
    assert attack.throw(FederationMessage(LeaveOutRequest()).encode(), 1) == []
    assert "message 1 compares rows, and is of kind 'leave_out_request'" in attack.refusals()[-1]
    assert attack.throw(attack.start, 1) == []
    assert "message 1 compares rows, and is of kind 'round'" in attack.refusals()[-1]
    assert attack.trained == []
    [first] = attack.throw(blind, 1)
    assert attack.throw(blind, 1) == [first], "the same bytes again, of no fresh secret"
    assert attack.throw(blind, 6) == []
    assert "message 6 compares rows by a message 'blind_request'" in attack.refusals()[-1]
    [reply] = attack.throw(FederationMessage(ComparisonRequest()).encode(), 2)
    assert b"not of all peers of this site" in reply
    assert attack.throw(FederationMessage(ComparisonRequest(), {"a": torch.zeros(1)}).encode(), 2) == []
    assert "came before with other contents" in attack.refusals()[-1]


def test_guesses_are_limited_over_all_federations_that_the_log_tells_of(attack: Attack) -> None:
    """Also over those that a coordinator broke off before any round; the same message again is answered."""
    attack.server._policy = policy(decontaminate=True, total_comparisons=1)
    south, north = (attack.keys[name] for name in ("south", "north"))

    def ask(federation: str) -> tuple[bytes, bytes]:
        order = attack.order.model_copy(update={"federation": federation})
        points = pack_tensors({"points": torch.zeros((0, 32), dtype=torch.uint8)})
        sealed = torch.frombuffer(bytearray(south.seal(points, north.card, federation, 1)), dtype=torch.uint8)
        question = FederationMessage(ComparisonRequest(), {south.card.fingerprint: sealed}).encode()
        attack.throw(FederationMessage(order).encode(), 0, federation=federation)
        attack.throw(FederationMessage(BlindRequest()).encode(), 1, federation=federation)
        [answer] = attack.throw(question, 2, federation=federation)
        return question, answer

    question, answer = ask(FEDERATION)
    assert b"evaluated_rows" in answer
    assert b"peers asked about rows in 1 federations, at most 1" in ask("cd" * 16)[1]
    assert attack.throw(question, 2) == [answer]


def test_a_round_cannot_begin_before_rows_were_compared(attack: Attack) -> None:
    """A coordinator that leaves the comparison out would have the site train on what others hold out."""
    assert len(attack.throw(FederationMessage(attack.order).encode(), 0)) == 1
    [reply] = attack.throw(attack.start, 6)
    assert b"before rows were compared" in reply
    assert attack.trained == []


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"names": ["north"]}, "rows are compared among sites, and there is one"),
    ({"names": ["north"], "partition": {"number": 4}}, "simulated sites have training rows alone"),
    ({"decontaminate": {"threshold": 0.6}}, "greater than or equal to 0.7"),
    ({"decontaminate": {"similarity": 0.8}}, "similarity"),
]


@pytest.mark.parametrize(("settings", "why"), REFUSED)
def test_what_cannot_be_compared_is_refused(both: Sites, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        both.step(**{"names": NAMES, "sum": "ffa", "decontaminate": {}, **settings})


def test_the_plan_says_that_rows_are_left_out(both: Sites) -> None:
    context = PlanContext(inputs={"model": both.base}, upstream={}, recipe_dir=both.base.folder)
    assert (
        "nearly repeat what another site holds out are left out"
        in step_of(both, NAMES).estimate_cost(context).statement
    )
