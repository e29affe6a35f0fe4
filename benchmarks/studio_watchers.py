"""A run that goes on for as long as it is watched, those who watch it, and what the server needs for them."""

from __future__ import annotations

import math
import os
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

from filelock import FileLock

from luthier.commands.projects.queue import RunQueue
from luthier.core.db import Ledger
from luthier.core.events import RunEvent
from luthier.core.render import LogFileRenderer
from luthier.recipe.runner import get_run_log_path
from luthier.recipe.workspace import Workspace

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_RUN = "watched0run0"


@contextmanager
def live_run(folder: Path, recipe: Path, *, events_per_s: float) -> Iterator[str]:
    """The id of a queued run that is under way: its log grows; the queue is held, so that nobody ends it."""
    workspace = Workspace.open(folder)
    log = get_run_log_path(workspace.with_folder(recipe.parent).open_store(), _RUN)
    log.parent.mkdir(parents=True, exist_ok=True)
    over = threading.Event()
    with Ledger(folder / ".luthier/ledger.db") as ledger, LogFileRenderer(log) as write:
        queue = RunQueue(ledger)
        run = queue.add(workspace.shorten(recipe))
        queue.update(run.id, state="running", started_at=datetime.now(UTC), process="none", run=_RUN)
        (folder / ".luthier/queue").mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".luthier/queue/.lock"):
            thread = threading.Thread(target=_grow, args=(write, over, events_per_s))
            thread.start()
            try:
                yield run.id
            finally:
                over.set()
                thread.join()


def _grow(write: LogFileRenderer, over: threading.Event, events_per_s: float) -> None:
    write(RunEvent(kind="start", step="tune", text="tune"))
    done, total = 0, 1_000_000
    while not over.wait(1 / events_per_s):
        done += 1
        measures: dict[str, float | str] = {"loss": 2 / math.sqrt(done), "learning_rate": 1e-4, "tokens/s": 5000.0}
        write(RunEvent(kind="progress", step="tune", done=done, total=total, unit="steps", measures=measures))
        if done % 5 == 0:
            write(RunEvent(kind="note", step="tune", text=f"a sample was written after step {done:,}"))


class ServerUse(NamedTuple):
    """What a server needed while it was watched."""

    core_share: float
    heard: float
    """Pieces that each watcher heard in a second."""
    first_mb: float
    last_mb: float
    slope: float
    """MB a minute, by least squares."""
    within: float
    """Half the width of its 95 % interval."""


class Watchers:
    """Connections that listen to the events of a run."""

    def __init__(self, url: str, run: str, cookies: dict[str, str], count: int) -> None:
        self._address = urlsplit(url)
        cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
        head = f"GET /runs/{run}/events HTTP/1.1\r\nHost: {self._address.netloc}\r\nCookie: {cookie}\r\n\r\n"
        self._head, self._count = head.encode(), count
        self._heard = 0
        self._turn = threading.Lock()
        self._open: list[socket.socket] = []

    def __enter__(self) -> Watchers:
        for _ in range(self._count):
            one = socket.create_connection((self._address.hostname or "", self._address.port or 0))
            one.sendall(self._head)
            self._open.append(one)
            threading.Thread(target=self._listen, args=(one,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self._open:
            one.close()

    def _listen(self, one: socket.socket) -> None:
        try:
            while part := one.recv(1 << 16):
                with self._turn:
                    self._heard += part.count(b"event: progress")
        except OSError:
            return

    def measure(self, process: int, seconds: float) -> ServerUse:
        """Watch for so long."""
        began, used, heard = time.monotonic(), _cpu_seconds(process), self._heard
        points: list[tuple[float, float]] = []
        while (now := time.monotonic() - began) < seconds:
            points.append((now / 60, _resident_mb(process)))
            time.sleep(1)
        took = time.monotonic() - began
        slope, within = _fit([(x, y) for x, y in _means(points, 10)])
        return ServerUse(
            (_cpu_seconds(process) - used) / took, (self._heard - heard) / took / self._count,
            points[0][1], points[-1][1], slope, within,
        )  # fmt: skip


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _resident_mb(process: int) -> float:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE / 1e6


def _means(points: list[tuple[float, float]], size: int) -> Iterator[tuple[float, float]]:
    for at in range(0, len(points) - size + 1, size):
        part = points[at : at + size]
        yield statistics.fmean(x for x, _ in part), statistics.fmean(y for _, y in part)


def _fit(points: list[tuple[float, float]]) -> tuple[float, float]:
    """The slope by least squares, and half the width of its 95 % interval (the points taken as independent)."""
    from scipy.stats import t

    line = statistics.linear_regression(*zip(*points, strict=True))
    x_mean = statistics.fmean(x for x, _ in points)
    left = sum((y - line.intercept - line.slope * x) ** 2 for x, y in points)
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    free = len(points) - 2
    return line.slope, float(t.ppf(0.975, free)) * math.sqrt(left / free / spread)
