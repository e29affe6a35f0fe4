"""`python federation_namespaces.py FOLDER`: a coordinator and two sites, each in a network namespace of its own.

The sites' namespaces are joined to a bridge in the coordinator's by one pair of virtual links each. In the second
round the link of a site goes down while that site trains, and comes back when the site has an answer that it could not
bring. One JSON line: whether the model has the bytes of a federation in one process, what the site said of its network,
and which messages the sites' logs tell of. It ends with code 77 where the kernel or this user's rights allow no
namespaces, and says why.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers

from federation_kills import COORDINATOR, NAMES, KilledFederation, fork
from federations import build_sites
from luthier.federated.sites import server as site_server
from luthier.federated.sites.ledger import SiteLedger

NOT_POSSIBLE = 77
PORT = 8443
NETWORK = "10.77.0"
NEW_NETWORK = 0x40000000
"""The flag of setns(2) for network namespaces."""
ROUND = 2
LONGEST_S = 120.0


class NetworkRefusal(Exception):
    """The machine makes no such network."""


def run_ip(*words: str) -> None:
    """One command of iproute2; `NetworkRefusal` with its words where it fails."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NetworkRefusal(f"ip {' '.join(words)}: {done.stderr.strip()}")


@contextmanager
def join_namespaces() -> Iterator[dict[str, str]]:
    """The namespaces of coordinator and sites, by name, joined by a bridge; all are removed in the end."""
    found = {name: f"luthier-{os.getpid()}-{at}" for at, name in enumerate((COORDINATOR, *NAMES))}
    middle = found[COORDINATOR]
    try:
        for space in found.values():
            run_ip("netns", "add", space)
            run_ip("-n", space, "link", "set", "lo", "up")
        run_ip("-n", middle, "link", "add", "bridge", "type", "bridge")
        run_ip("-n", middle, "addr", "add", f"{NETWORK}.1/24", "dev", "bridge")
        run_ip("-n", middle, "link", "set", "bridge", "up")
        for at, name in enumerate(NAMES):
            run_ip("-n", middle, "link", "add", f"to{at}", "type", "veth", "peer", "out", "netns", found[name])
            run_ip("-n", middle, "link", "set", f"to{at}", "master", "bridge", "up")
            run_ip("-n", found[name], "addr", "add", f"{NETWORK}.{at + 2}/24", "dev", "out")
            run_ip("-n", found[name], "link", "set", "out", "up")
        yield found
    finally:
        for space in found.values():
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


class NamespacedFederation(KilledFederation):
    """A federation whose processes see no network but the bridge."""

    spaces: dict[str, str]

    def start(self, name: str) -> None:
        """Begin a process in its namespace."""
        work = self.coordinate if name == COORDINATOR else lambda: self.serve(name)
        self.processes[name] = fork(lambda: self.enter(name, work), self.folder / f"{name}.txt")

    def enter(self, name: str, work: Callable[[], None]) -> None:
        """Do some work in a namespace."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(f"/run/netns/{self.spaces[name]}").open("rb") as space:
            if libc.setns(space.fileno(), NEW_NETWORK):
                raise OSError(ctypes.get_errno(), "setns")
        site_server.RETRY_S = 0.5
        work()

    def read_numbers(self, name: str, way: str) -> list[int]:
        """Messages that came to a site, or that it answered; what was half written is not read."""
        path = self.folder / name / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        entries = [json.loads(line) for line in lines if line.endswith("\n")]
        return [entry["number"] for entry in entries if entry["way"] == way]

    def wait_for(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds."""
        end = time.monotonic() + LONGEST_S
        while not holds():
            if self.poll() or time.monotonic() > end:
                raise SystemExit(f"the federation ended, or {LONGEST_S:g} s went by, before {what}")
            time.sleep(0.01)

    def finish(self) -> None:
        """Wait until the coordinator has its model."""
        end = time.monotonic() + LONGEST_S
        while not self.poll():
            if time.monotonic() > end:
                raise SystemExit("the federation does not end after the link came back")
            time.sleep(0.01)

    def cut(self, name: str) -> str:
        """Take the link of a site down in a round and up again; returns what the site said meanwhile."""
        words, space = self.folder / f"{name}.txt", self.spaces[name]
        self.wait_for(lambda: ROUND in self.read_numbers(name, "in"), "the round began")
        run_ip("-n", space, "link", "set", "out", "down")
        before = len(words.read_text())
        self.wait_for(lambda: "tried again" in words.read_text()[before:], "the site missed its network")
        said = words.read_text()[before:]
        if (self.folder / "result.json").is_file() or ROUND + 1 in self.read_numbers(NAMES[1], "in"):
            raise SystemExit("the round went on without the site")
        run_ip("-n", space, "link", "set", "out", "up")
        return said


def main() -> int:
    """Federate over the namespaces; returns the exit code."""
    folder = Path(sys.argv[1])
    if shutil.which("ip") is None:
        sys.stderr.write("there is no command `ip` (iproute2)\n")
        return NOT_POSSIBLE
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    sites = build_sites(folder / "sites")
    whole = KilledFederation(sites, folder / "whole", "folder", "f0" * 16)
    whole.run(random.Random(0), 0, 1.0)
    apart = NamespacedFederation(sites, folder / "apart", "http", "f1" * 16)
    apart.host, apart.port = f"{NETWORK}.1", PORT
    try:
        with join_namespaces() as spaces:
            apart.spaces = spaces
            try:
                for name in (COORDINATOR, *NAMES):
                    apart.start(name)
                said = apart.cut(NAMES[0])
                apart.finish()
            finally:
                for name in list(apart.processes):
                    apart.kill(name)
    except NetworkRefusal as error:
        sys.stderr.write(f"{error}\n")
        return NOT_POSSIBLE
    results = [json.loads((one.folder / "result.json").read_text()) for one in (whole, apart)]
    answers = {
        name: sorted(
            {(entry.number, entry.digest) for entry in SiteLedger(apart.folder / name).read() if entry.way == "out"}
        )
        for name in NAMES
    }
    found = {"same": results[0] == results[1], "said": said, "answered": answers}
    sys.stdout.write(f"{json.dumps(found)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
