"""What happens to a federation when machines, disks, clocks and networks fail: the same bytes, or one clear error."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from faulty_relay import FaultyRelay
from federations import Sites
from late_rounds import ADAPTER, NAMES, Rounds, build_again, federate
from luthier.core.errors import CorruptArtifact, DataError, ModelError, OutOfMemory, SystemResourceError
from luthier.federated.federation_state import FederationState
from luthier.federated.local_training import FederatedTraining
from luthier.federated.messaging import envelopes
from luthier.federated.messaging.mailbox import HttpMailbox
from luthier.federated.sites import server as site_server
from luthier.federated.sites.ledger import LedgerEntry, SiteLedger
from luthier.federated.sites.policy import HttpAddress, SitePolicy
from luthier.federated.sites.server import SiteServer
from luthier.federated.transports import http

WEEK_S = 7 * 24 * 3600.0
KILLS = 8
COMMON: dict[str, Any] = {"rounds": 2, "least": None, "control_variates": True}


@pytest.fixture(scope="module")
def whole(sites: Sites) -> bytes:
    """The weights of the same federation undisturbed, in one process."""
    settings = {**COMMON, "sum": "ffa", "local": {"steps": 1}}
    found: bytes = sites.federate(sites.step(NAMES, **settings), digest="ee" * 16).path(ADAPTER).read_bytes()
    return found


def test_a_federation_waits_for_sites_that_are_lost(sites: Sites, rounds: Rounds, whole: bytes) -> None:
    servers, rounds.servers = rounds.servers, {}
    with pytest.raises(DataError, match="0 of 3 sites take part, and at least 3 are needed; missing: north, south"):
        federate(sites, rounds, "b1" * 16, **COMMON)
    rounds.servers = {"north": servers["north"]}
    with pytest.raises(DataError, match="1 of 3 sites take part"):
        federate(sites, rounds, "b1" * 16, **COMMON)
    rounds.servers = servers
    assert federate(sites, rounds, "b1" * 16, **COMMON).path(ADAPTER).read_bytes() == whole


def test_a_site_may_be_away_for_a_week(
    sites: Sites, rounds: Rounds, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds.late = {("south", 2): 99}
    with pytest.raises(DataError, match=r"2 of 3 sites answered in round 2.*missing: south") as caught:
        federate(sites, rounds, "b2" * 16, **COMMON)
    assert caught.value.hint.startswith("run again when they are there: finished rounds are kept")
    rounds.late = {}
    rounds.now += WEEK_S
    monkeypatch.setattr(site_server, "_now", lambda: "2027-01-01T00:00:00+00:00")
    for name in NAMES:
        rounds.servers[name] = build_again(rounds.servers[name])
    assert federate(sites, rounds, "b2" * 16, **COMMON).path(ADAPTER).read_bytes() == whole


def test_a_site_back_after_the_end_changes_nothing(sites: Sites, rounds: Rounds) -> None:
    rounds.late = {("south", 1): 99}
    made = federate(sites, rounds, "b3" * 16, rounds=2, late={"most_rounds": 3})
    before = made.path(ADAPTER).read_bytes()
    rounds.late, rounds.now = {}, rounds.now + WEEK_S
    again = rounds.servers["south"].answer_waiting()
    assert again <= 1, "it hears of the end at most"
    assert made.path(ADAPTER).read_bytes() == before
    assert all(entry["missing"] == ["south"] for entry in made.read_json("federation.json")["rounds"])


@pytest.mark.matrix("1970*")
@pytest.mark.parametrize("apart", ["1970-01-01T00:00:00+00:00", "2106-02-07T06:28:15+00:00"])
def test_clocks_may_be_apart(
    sites: Sites, rounds: Rounds, whole: bytes, monkeypatch: pytest.MonkeyPatch, apart: str
) -> None:
    monkeypatch.setattr(site_server, "_now", lambda: apart)
    monkeypatch.setattr(envelopes, "monotonic", lambda: rounds.now - 1e9)
    assert federate(sites, rounds, f"{apart[:2]}" * 16, **COMMON).path(ADAPTER).read_bytes() == whole
    assert {entry.at for entry in SiteLedger(rounds.keys / "south").read()} == {apart}


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process may be longer: a write beyond it fails, as on a full disk."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


@pytest.mark.matrix("the log", "half a line")
@pytest.mark.parametrize("room", [0, 40, 2500, 12_000], ids=["none", "half a line", "the log", "a checkpoint"])
def test_a_full_disk_at_a_site_is_told_and_waited_for(
    sites: Sites, rounds: Rounds, whole: bytes, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    said: list[str] = []
    south = build_again(rounds.servers["south"])
    south._say, rounds.servers["south"] = said.append, south
    monkeypatch.setattr(site_server, "RETRY_S", 0.0)
    answering, tries = SiteServer.answer_waiting, []

    def answer_with_a_full_disk(self: SiteServer) -> int:
        number = rounds.find_numbers("south")[-1]
        if self is not south or number not in (1, 2) or tries.count(number) == 2:
            return answering(self)
        tries.append(number)
        size = (rounds.keys / "south" / "log.jsonl").stat().st_size
        files = set((rounds.mail / rounds.federation).iterdir())
        with full_disk(size + room):
            assert answering(self) == 0
        assert set((rounds.mail / rounds.federation).iterdir()) == files, "nothing leaves"
        SiteLedger(rounds.keys / "south").read()
        return 1

    monkeypatch.setattr(SiteServer, "answer_waiting", answer_with_a_full_disk)
    digest = f"{len(str(room))}{room % 7}" * 16
    assert federate(sites, rounds, digest, **COMMON).path(ADAPTER).read_bytes() == whole
    assert tries == [1, 1, 2, 2]
    errors = [text for text in said if "nothing was lost" in text]
    assert len(errors) == len(tries)
    assert all("larger than this machine allows" in text or "full" in text for text in errors)
    log = SiteLedger(rounds.keys / "south").read()
    assert [entry.kind for entry in log if entry.way == "out"] == ["enrolled", "update", "update", "measured"]


def test_a_full_disk_at_the_coordinator_ends_the_run_and_loses_nothing(
    sites: Sites, rounds: Rounds, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal, is_full = FederationState.write, [True, False, True]

    def seal_on_a_full_disk(self: FederationState, path: Path) -> None:
        with full_disk(3000 if is_full.pop(0) else 1 << 30):
            seal(self, path)

    monkeypatch.setattr(FederationState, "write", seal_on_a_full_disk)
    for finished in (0, 1):
        with pytest.raises(SystemResourceError, match="larger than this machine allows"):
            federate(sites, rounds, "b6" * 16, **COMMON)
        work = sites.work(sites.step([], sum="ffa", transport=rounds.transport), digest="b6" * 16)
        state = FederationState.read(work.scratch / "federation.state")
        assert (0 if state is None else len(state.rounds)) == finished
        assert not list(work.scratch.rglob("*.tmp"))
    is_full.append(False)
    assert federate(sites, rounds, "b6" * 16, **COMMON).path(ADAPTER).read_bytes() == whole


def test_a_site_that_cannot_train_a_round_is_left_out_of_it(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    train = FederatedTraining.train_round

    def failing(self: FederatedTraining, given: Any, number: int, *rest: Any) -> Any:
        if number == 1 and self._work.scratch.parent.name == "south":
            raise OutOfMemory("the machine has no memory left")
        return train(self, given, number, *rest)

    monkeypatch.setattr(FederatedTraining, "train_round", failing)
    settings: dict[str, Any] = {"rounds": 3, "sum": "ffa", "local": {"steps": 1}}
    with pytest.raises(ModelError, match="site south refuses: the machine has no memory left"):
        sites.federate(sites.step(NAMES, **settings), digest="b8" * 16)
    made = sites.federate(sites.step(NAMES, **settings, least=2), digest="b9" * 16)
    rounds = made.read_json("federation.json")["rounds"]
    assert [entry["missing"] for entry in rounds] == [[], ["south"], []]
    assert [entry["rows"] for entry in rounds] == [48, 32, 48]
    assert "site south is left out of round 2" in " ".join(sites.said("warning"))


def test_half_a_line_of_the_log_is_no_entry(tmp_path: Path) -> None:
    ledger = SiteLedger(tmp_path)
    entry = LedgerEntry(at="now", federation="ab", way="in", number=1, kind="round", digest="0", bytes=3)
    ledger.append(entry)
    ledger.append(entry)
    content = ledger.path.read_bytes()
    ledger.path.write_bytes(content[:-20])  # a machine that lost its power while it wrote
    assert len(ledger.read()) == 1
    ledger.append(entry)
    assert ledger.path.read_bytes() == content
    ledger.path.write_bytes(content[20:])
    with pytest.raises(CorruptArtifact, match="chain of the log is broken"):
        ledger.append(entry)
    assert ledger.path.read_bytes() == content[20:]


@pytest.mark.parametrize("seed", range(2))
def test_a_network_that_loses_cuts_delays_and_repeats_makes_the_same_bytes(
    sites: Sites, rounds: Rounds, whole: bytes, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(site_server, "RETRY_S", 0.05)
    opened, stop = http.HttpPost.__init__, threading.Event()
    relays, threads = list[FaultyRelay](), list[threading.Thread]()

    def serve() -> None:
        """Sites answer one after another; after the first round nothing goes through for a while."""
        servers, parts = [build_again(rounds.servers[name]) for name in NAMES], dict.fromkeys(NAMES, 0)
        for name, server, relay in zip(NAMES, servers, relays, strict=True):
            policy = SitePolicy.model_validate({"name": name, "coordinator": "c", "recipe": "r"})
            server._mailbox = HttpMailbox(HttpAddress(url=f"http://127.0.0.1:{relay.port}"), name, policy)
        while not stop.wait(0.02):
            for name, server, relay in zip(NAMES, servers, relays, strict=True):
                server.answer_waiting()
                if parts[name] < 20 and server._ledger.find_last_answered(rounds.federation) == 1:
                    parts[name] += 1
                    relay.parted = parts[name] < 20

    def opening(self: http.HttpPost, *arguments: Any) -> None:
        opened(self, *arguments)
        port = int(self.url.rpartition(":")[2])
        relays.extend(FaultyRelay(port, 10 * seed + at).__enter__() for at in range(len(NAMES)))
        threads.append(threading.Thread(target=serve))
        threads[0].start()

    monkeypatch.setattr(http.HttpPost, "__init__", opening)
    transport = {**rounds.transport, "kind": "http", "port": 0, "wait_s": 300}
    del transport["path"]
    try:
        made = federate(sites, rounds, f"c{seed}" * 16, **COMMON, transport=transport)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for relay in relays:
            relay.__exit__()
    assert made.path(ADAPTER).read_bytes() == whole
    assert all(relay.counts["parted"] for relay in relays)
    assert sum(sum(relay.counts[fault] for fault in ("lost", "cut request", "cut reply")) for relay in relays) > 3
    for name in NAMES:
        log = SiteLedger(rounds.keys / name).read()
        digests = {(entry.number, entry.digest) for entry in log if entry.way == "out"}
        assert len(digests) == 4, "each message has one answer, however often it went"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "http"])
def test_processes_killed_at_random_moments_go_on_to_the_same_bytes(tmp_path: Path, kind: str) -> None:
    script = Path(__file__).parents[1] / "federation_kills.py"
    command = [sys.executable, str(script), str(tmp_path), f"{KILLS}", "11", kind]
    ended = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert sum(len(entry["killed"]) for entry in found) >= KILLS
    assert all(entry["same"] for entry in found), found
