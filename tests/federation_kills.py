"""`python federation_kills.py FOLDER KILLS SEED KIND`: kill sites and coordinators at random moments, and compare.

Coordinator and sites are processes, which speak over a `folder` or `http`. Libraries are imported once, and each
process is a fork that has computed nothing. A process that is killed by SIGKILL is begun again; some kills later the
federation may end. One JSON line a federation: who was killed, whether the model has the bytes of an undisturbed one,
and how many messages the sites' logs tell of, whose chains are checked.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx  # noqa: F401  # imported once, for all forks
import peft  # noqa: F401
import safetensors.torch  # noqa: F401
import torch
import transformers

from federations import Sites, build_sites
from luthier.federated.messaging.keys import FederationIdentity
from luthier.federated.messaging.mailbox import FolderMailbox, HttpMailbox, SiteMailbox
from luthier.federated.sites import server as site_server
from luthier.federated.sites.ledger import SiteLedger
from luthier.federated.sites.policy import HttpAddress, SitePolicy
from luthier.federated.sites.server import SiteInputs, SiteServer

NAMES = ["north", "south"]
COORDINATOR = "coordinator"
KILLS = 6
"""At most, in one federation."""
WAIT_S = 240.0


class KilledFederation:
    """One federation, whose processes are killed."""

    def __init__(self, sites: Sites, folder: Path, kind: str, digest: str) -> None:
        self.sites, self.folder, self.digest = sites, folder, digest
        self.host, self.port = "127.0.0.1", find_port() if kind == "http" else 0
        self.processes: dict[str, int] = {}
        for name in (COORDINATOR, *NAMES):
            FederationIdentity.create(name).write(folder / name)
        self.ended = False

    def start(self, name: str) -> None:
        """Begin a process, or begin it again."""
        work = self.coordinate if name == COORDINATOR else lambda: self.serve(name)
        self.processes[name] = fork(work, self.folder / f"{name}.txt")

    def coordinate(self) -> None:
        """The coordinator's process."""
        cards = {name: str(self.folder / name / "card.json") for name in NAMES}
        way: dict[str, Any] = {"kind": "folder", "path": str(self.mail)}
        if self.port:
            way = {"kind": "http", "host": self.host, "port": self.port}
        transport = {**way, "keys": str(self.folder / COORDINATOR), "member_cards": cards, "wait_s": WAIT_S}
        step = self.sites.step(
            [], rounds=3, sum="ffa", local={"steps": 2}, control_variates=True, tune={"save_steps": 1},
            transport=transport,
        )  # fmt: skip
        made = self.sites.federate(step, digest=self.digest)
        files = {entry.path: entry.digest for entry in made.manifest.files if "adapter_model" in entry.path}
        rounds = [sorted(entry["sites"]) for entry in made.read_json("federation.json")["rounds"]]
        (self.folder / "result.json").write_text(json.dumps({"files": files, "rounds": rounds}))

    def serve(self, name: str) -> None:
        """A site's process."""
        site_server.POLL_S = 0.02
        policy = SitePolicy.model_validate(
            {"name": name, "coordinator": "c", "recipe": "r", "approval": "never", "least_rows": 4}
        )
        mailbox: SiteMailbox = FolderMailbox(self.mail, name)
        if self.port:
            mailbox = HttpMailbox(HttpAddress(url=f"http://{self.host}:{self.port}"), name, policy)
        identity = FederationIdentity.read(self.folder / name)
        card = FederationIdentity.read(self.folder / COORDINATOR).card
        inputs = SiteInputs(data=self.sites.data[name], model=self.sites.base)
        SiteServer(self.folder / name, identity, card, mailbox, inputs, policy, tell).run()

    @property
    def mail(self) -> Path:
        return self.folder / "mail"

    def poll(self) -> bool:
        """Whether the coordinator has ended; `SystemExit` where a process ended that nobody killed."""
        for name, number in list(self.processes.items()):
            if os.waitpid(number, os.WNOHANG)[0]:
                del self.processes[name]
                if name == COORDINATOR and (self.folder / "result.json").is_file():
                    self.ended = True
                    continue
                raise SystemExit(f"{name} ended by itself: {(self.folder / f'{name}.txt').read_text()[-2000:]}")
        return self.ended

    def kill(self, name: str) -> None:
        """Kill a process."""
        number = self.processes.pop(name)
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)

    def run(self, chance: random.Random, kills: int, every_s: float) -> list[str]:
        """Run to the end, with so many kills at most; returns who was killed."""
        killed: list[str] = []
        end = time.monotonic() + WAIT_S
        for name in (COORDINATOR, *NAMES):
            self.start(name)
        strike = time.monotonic() + chance.uniform(0, every_s)
        try:
            while not self.poll():
                if time.monotonic() > end:
                    raise SystemExit(f"the federation in {self.folder} does not end")
                if len(killed) < kills and time.monotonic() >= strike:
                    victim = chance.choice([COORDINATOR, COORDINATOR, *NAMES])
                    self.kill(victim)
                    killed.append(victim)
                    self.start(victim)
                    strike = time.monotonic() + chance.uniform(0, every_s)
                time.sleep(0.005)
        finally:
            for name in list(self.processes):
                self.kill(name)
        return killed


def tell(text: str) -> None:
    """Write what a process says."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def find_port() -> int:
    """A port that is free."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def fork(work: Callable[[], None], output: Path) -> int:
    """Do some work in a fork of its own, whose words go to a file; returns its number."""
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        words = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(words, 1)
        os.dup2(words, 2)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:  # a fork does not go on in its parent's work
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Kill so often."""
    folder, kills, chance, kind = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3])), sys.argv[4]
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    sites = build_sites(folder / "sites")
    began = time.monotonic()
    whole = KilledFederation(sites, folder / "whole", kind, "f0" * 16)
    whole.run(chance, 0, 1.0)
    wall_s = time.monotonic() - began
    expected = json.loads((whole.folder / "result.json").read_text())
    done, at = 0, 0
    while done < kills:
        federation = KilledFederation(sites, folder / str(at), kind, f"{at:04x}" * 8)
        killed = federation.run(chance, min(KILLS, kills - done), wall_s / 3)
        found = json.loads((federation.folder / "result.json").read_text())
        logs = {name: len(SiteLedger(federation.folder / name).read()) for name in NAMES}
        done, at = done + len(killed), at + 1
        sys.stdout.write(f"{json.dumps({'killed': killed, 'same': found == expected, 'logs': logs})}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
