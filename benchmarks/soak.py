"""Whether a server that is asked for a long time holds more and more: memory, open files and threads over time.

    python benchmarks/soak.py [--seconds 600] [MODEL]

Starts `luthier serve MODEL` and asks it in every way at once: whole answers, streams, streams that are left in the
middle, bodies that make no sense, feedback. The slope is fitted over the last half, when
all is warm: keys and values have a room that fills up once, and it is made small here so that it is full by then. A
connection that the server closed while it was idle is opened anew, once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx
import numpy as np

CLIENTS = 6
EVERY_S = 1.0
ENGINE = "{kind: torch, max_num_batched_tokens: 4096}"


class Look(NamedTuple):
    """What a process tree holds at a moment."""

    at: float
    resident_kb: int
    files: int
    threads: int


@dataclass
class Soaked:
    """What came of it."""

    looks: list[Look]
    asked: int
    failed: int

    @property
    def slope_kb(self) -> float:
        """KiB a second that memory grows by, over the last half."""
        rest = self.looks[len(self.looks) // 2 :]
        return float(np.polyfit([one.at for one in rest], [one.resident_kb for one in rest], 1)[0])

    @property
    def files_more(self) -> int:
        """Files that are open at the end beyond those at half of the time."""
        return self.looks[-1].files - self.looks[len(self.looks) // 2].files


@dataclass
class _Clients:
    url: str
    model: str
    stop: threading.Event = field(default_factory=threading.Event)
    asked: int = 0
    failed: int = 0

    def go_on(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=120, trust_env=False) as client:
            for turn in itertools.count(number):
                if self.stop.is_set():
                    return
                self.asked += 1
                try:
                    self.failed += not self._one(client, turn)
                except (httpx.NetworkError, httpx.RemoteProtocolError):
                    self.failed += not self._one(client, turn)

    def _one(self, client: httpx.Client, turn: int) -> bool:
        asked: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": f"Where is parcel {turn}? Write to anna{turn}@example.org."}],
            "max_tokens": 8,
            "user": f"C-{turn % 50}",
        }
        way = turn % 5
        if way == 0:
            kind = {"content-type": "application/json"}
            return client.post("chat/completions", content=b'{"model": [[[', headers=kind).status_code == 400
        if way == 1:
            with client.stream("POST", "chat/completions", json={**asked, "stream": True}) as response:
                next(response.iter_bytes())
            return response.status_code == 200
        response = client.post("chat/completions", json={**asked, "stream": way == 2})
        if way == 3 and response.status_code == 200:
            told = {"id": response.headers["x-request-id"], "thumb": "up"}
            return client.post("feedback", json=told).status_code == 200
        return response.status_code == 200


def soak(process: int, url: str, model: str, seconds: float) -> Soaked:
    """Ask a running server for some time, and look at what it holds."""
    clients, looks, began = _Clients(url, model), list[Look](), time.monotonic()
    threads = [threading.Thread(target=clients.go_on, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    while (at := time.monotonic() - began) < seconds:
        looks.append(look(process, at))
        time.sleep(EVERY_S)
    clients.stop.set()
    for thread in threads:
        thread.join()
    return Soaked(looks, clients.asked, clients.failed)


def look(process: int, at: float) -> Look:
    """A process and its children."""
    import psutil

    whole = psutil.Process(process)
    every = [whole, *whole.children(recursive=True)]
    memory = sum(one.memory_info().rss for one in every) // 1024
    return Look(at, memory, sum(one.num_fds() for one in every), sum(one.num_threads() for one in every))


def main() -> None:
    """Serve, ask, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--quick", action="store_true", help="30 seconds")
    asked = parser.parse_args()
    seconds = 30.0 if asked.quick else asked.seconds
    command = [sys.executable, "-m", "luthier", "serve", asked.model, "--engine", ENGINE, "--port", "0", "--json"]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert served.stdout is not None
        told = json.loads(served.stdout.readline())
        found = soak(served.pid, told["url"], told["models"][0], seconds)
        assert served.poll() is None, "the server ended"
    finally:
        served.terminate()
        served.wait(timeout=60)
    for one in found.looks[:: max(1, len(found.looks) // 12)]:
        print(f"{one.at:6.0f} s  {one.resident_kb / 1024:8.1f} MiB  {one.files:4d} files  {one.threads:3d} threads")
    device = f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}"
    shared = {"seconds": round(seconds), "requests": found.asked, "failed": found.failed, "device": device}
    slope = round(found.slope_kb * 600 / 1024, 1)
    print(json.dumps({"figure": "soak_growth_in_ten_minutes", "value": slope, "goal": 20, "unit": "MiB", **shared}))
    print(json.dumps({"figure": "soak_open_files_more", "value": found.files_more, "goal": 4, "unit": "", **shared}))


if __name__ == "__main__":
    main()
