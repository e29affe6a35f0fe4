"""Preparing 20,000 support documents beside Data-Juicer and datatrove at the like steps, interleaved in one run.

    python benchmarks/data.py [--quick] [--peers FOLDER] [--rows ROWS …] [--only FIGURE …]

Repair of text, language, quality rules, PII patterns, exact and verified near-duplicates, split, books, on one process.
The corpus is made by `support_corpus.py`. Peers run in virtual environments of their own below `--peers`, named
`datatrove` and `juicer` (how to make them is printed when they are absent); neither tells languages nor verifies pairs
here. CPU-seconds and peak memory are those of the whole tree of processes, imports included; of memory it is told how
much is its own (anonymous) and not pages of files, which the system takes back when it needs the room.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "src")]

from benchmarks import support_corpus  # noqa: E402  # the repository must be on the path first
from benchmarks.data_work import CHANGES, prepare  # noqa: E402

ROWS = 20_000
PEERS = {"datatrove": "peer_datatrove.py", "juicer": "peer_juicer.py"}
INSTALL = {
    "datatrove": "pip install 'datatrove[processing]' spacy orjson",
    "juicer": "pip install py-data-juicer aiohttp",
}
FIGURES = ("cost", "peers", "growth", "processes", "duplicates", "again")


class Cost(NamedTuple):
    """What a process tree took."""

    cpu_s: float
    wall_s: float
    peak_mb: float
    own_mb: float
    """Of it, at most so much that is not mapped from files."""
    main_mb: float
    """The peak of the process that was started, without its workers."""
    main_own_mb: float
    said: str


def main() -> None:
    """Measure what was asked for, print every round, and one JSON line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, no 200,000 documents, no peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="+", default=[200_000], help="corpora for `growth`, such as 2000000")
    parser.add_argument("--workers", type=int, default=1, help="processes for `growth`")
    parser.add_argument("--corpora", type=Path, help="folder in which corpora are kept, and found by later runs")
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir()) / "luthier-peers")
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=FIGURES)
    options = parser.parse_args()
    wanted = [name for name in options.only if not (options.quick and name in ("peers", "growth", "processes"))]
    with tempfile.TemporaryDirectory(dir=os.environ.get("LUTHIER_BENCH_DIR")) as folder:
        bench = Bench(Path(folder), 1 if options.quick else options.rounds, options.peers, options.corpora)
        for figure in bench.figures(wanted, options.rows, options.workers):
            print(json.dumps(figure), flush=True)


class Bench:
    """Runs of us and of the peers over corpora of several sizes."""

    def __init__(self, folder: Path, rounds: int, peers: Path, corpora: Path | None = None) -> None:
        self.folder = folder
        self.corpora = corpora or folder
        self.rounds = rounds
        self.peers = {name: peers / name / "bin" / "python" for name in PEERS}
        self._runs = 0

    def figures(self, wanted: Sequence[str], sizes: Sequence[int], workers: int = 1) -> Iterator[dict[str, Any]]:
        """All figures that were asked for; ours at 20,000 documents is measured once for all of them."""
        ours, theirs = self._side_by_side("peers" in wanted)
        cpu, peak = statistics.median(one.cpu_s for one in ours), max(one.peak_mb for one in ours)
        if "cost" in wanted:
            yield _figure("data_cpu_s", cpu, 6, "CPU-s", told=f"{ROWS} documents, rounds {_spread(ours)}")
            yield _figure("data_peak_mb", peak, 400, "MB")
        for name, costs in theirs.items():
            median = statistics.median(one.cpu_s for one in costs)
            memory = max(one.peak_mb for one in costs)
            told = f"{median:.1f} CPU-s, {memory:.0f} MB; rounds {_spread(costs)}"
            yield _figure(f"data_ratio_{name}", median / cpu, 10, "x less CPU", peer=name, told=told)
        if "growth" in wanted:
            for size in sizes:
                yield from self._growth(size, ours, workers)
        if "processes" in wanted:
            yield self._processes(max(min(sizes), ROWS))
        if "duplicates" in wanted:
            yield from self._duplicates()
        if "again" in wanted:
            yield from self._again()

    def _side_by_side(self, peers: bool) -> tuple[list[Cost], dict[str, list[Cost]]]:
        corpus = self.corpus(ROWS)
        present = [name for name, python in self.peers.items() if peers and python.exists()]
        for name in self.peers if peers else ():
            if name not in present:
                print(f"{name} is not there: python -m venv {self.peers[name].parents[1]}, then {INSTALL[name]}")
        print(f"\n{ROWS} documents, {corpus.stat().st_size / 1e6:.1f} MB", flush=True)
        ours: list[Cost] = []
        theirs: dict[str, list[Cost]] = {name: [] for name in present}
        for turn in range(self.rounds):
            ours.append(self.ours(corpus))
            print(f"  round {turn + 1}: ours {_told(ours[-1])}", flush=True)
            for name in present:
                command = [str(self.peers[name]), str(HERE / PEERS[name]), str(corpus), str(self._new())]
                theirs[name].append(measured(command))
                print(f"  round {turn + 1}: {name} {_told(theirs[name][-1])}", flush=True)
        print(ours[0].said.strip(), flush=True)
        return ours, theirs

    def _growth(self, size: int, before: Sequence[Cost], workers: int) -> Iterator[dict[str, Any]]:
        """One large run between small ones: a machine may be another one ten minutes later."""
        corpus = self.corpus(size)
        print(f"\n{size} documents, {corpus.stat().st_size / 1e6:.0f} MB", flush=True)
        cost = self.ours(corpus, workers)
        print(f"  ours, {workers} at once, {_told(cost)}; {cost.said.strip().splitlines()[-1]}", flush=True)
        after = [self.ours(self.corpus(ROWS)) for _ in before]
        print(f"  {ROWS} documents before it {_spread(before)}, after it {_spread(after)} CPU-s", flush=True)
        told = f"{cost.cpu_s:.1f} CPU-s in all"
        growth = cost.cpu_s / size / (statistics.median(one.cpu_s for one in (*before, *after)) / ROWS)
        yield _figure(f"data_growth_{size}", growth, 1.1, f"x the CPU of a document among {ROWS}", told=told)
        yield _figure(f"data_peak_mb_{size}", cost.peak_mb, 400, "MB")

    def _processes(self, size: int) -> dict[str, Any]:
        """One process against two, and what two runs of one process at the same time say that the machine allows."""
        corpus = self.corpus(size)
        print(f"\none process and two, {size} documents", flush=True)
        ratios, allowed = [], []
        for turn in range(self.rounds):
            one, two = self.ours(corpus), self.ours(corpus, workers=2)
            with ThreadPoolExecutor(2) as threads:
                beside = max(cost.wall_s for cost in threads.map(self.ours, [corpus] * 2))
            ratios.append(one.wall_s / two.wall_s)
            allowed.append(2 * one.wall_s / beside)
            told = f"{ratios[-1]:.2f}x (two runs at once end after {beside:.1f} s: {allowed[-1]:.2f}x)"
            print(f"  round {turn + 1}: {_told(one)}, and {_told(two)}: {told}", flush=True)
        told = f"two runs of one process at once do {statistics.median(allowed):.2f}x the work of one alone"
        return _figure("data_two_processes", statistics.median(ratios), 1.7, "x the speed of one", told=told)

    def _again(self) -> Iterator[dict[str, Any]]:
        """The same corpus prepared once more with something set otherwise, and what the first time left taken over."""
        corpus = self.corpus(ROWS)
        print(f"\nprepared again, {ROWS} documents", flush=True)
        costs: dict[str, list[float]] = {change: [] for change in CHANGES}
        for turn in range(self.rounds):
            kept = self._new()
            costs["nothing"].append(self._kept(corpus, kept, "nothing"))
            for change in [*CHANGES][1:]:
                costs[change].append(self._kept(corpus, shutil.copytree(kept, self._new() / "kept"), change))
            told = ", ".join(f"{change} {found[-1]:.1f}" for change, found in costs.items())
            print(f"  round {turn + 1}: CPU-s by what is changed: {told}", flush=True)
        whole_s = statistics.median(costs.pop("nothing"))
        for change, found in costs.items():
            share = statistics.median(found) / whole_s
            yield _figure(f"data_again_{change.replace(' ', '_')}", share, 0.5, f"of {whole_s:.1f} CPU-s")

    def _kept(self, corpus: Path, kept: Path, change: str) -> float:
        """CPU-seconds of a making that takes over what is kept, and keeps what it does."""
        work = [str(HERE / "data_work.py"), str(corpus), str(self._new()), "1", str(kept), change]
        return measured([sys.executable, *work]).cpu_s

    def _duplicates(self) -> Iterator[dict[str, Any]]:
        """Planted pairs at and above the threshold that both stay, and rows that go without such a twin."""
        import polars as pl

        corpus = self.folder / "planted.jsonl"
        support_corpus.write(corpus, ROWS, dirt=False)
        folder = self._new()
        prepare(corpus, folder, 1, [{"kind": "near_dedup", "of": "answer"}])
        events = pl.read_parquet(folder / "made" / "events.parquet").filter(pl.col("operator") == "near_dedup")
        kept = pl.concat([pl.read_parquet(file) for file in sorted((folder / "made" / "examples").glob("*.parquet"))])
        line_of = dict(kept.select("id", "line").iter_rows())
        texts = {number: _pieces(support_corpus.document(number, dirt=False)) for number in range(ROWS)}
        dropped = {line - 1: line_of[twin] - 1 for line, twin in events.select("line", "twin").iter_rows()}
        wrong = sum(_jaccard(texts[one], texts[other]) < 0.8 for one, other in dropped.items())
        plans = ((number, support_corpus.plan(number).of) for number in range(ROWS))
        pairs = [(one, of) for one, of in plans if of is not None and _jaccard(texts[one], texts[of]) >= 0.8]
        missed = sum(one not in dropped and other not in dropped for one, other in pairs)
        print(f"\n{len(pairs)} planted pairs from 0.8 on, {len(dropped)} rows dropped", flush=True)
        yield _figure("duplicates_missed", missed, 0, f"of {len(pairs)} planted pairs")
        yield _figure("duplicates_wrong", wrong, 0, f"of {len(dropped)} dropped rows")

    def ours(self, corpus: Path, workers: int = 1) -> Cost:
        """One run of ours in a process of its own."""
        return measured([sys.executable, str(HERE / "data_work.py"), str(corpus), str(self._new()), str(workers)])

    def corpus(self, rows: int) -> Path:
        """The corpus of so many documents."""
        place = self.corpora / f"corpus{rows}.jsonl"
        if not place.exists():
            support_corpus.write(place.with_suffix(".part"), rows)
            place.with_suffix(".part").replace(place)
        return place

    def _new(self) -> Path:
        self._runs += 1
        place = self.folder / f"run{self._runs}"
        place.mkdir()
        return place


def measured(command: Sequence[str]) -> Cost:
    """Run a command on one thread a process; CPU and memory of it and of all its children."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "LUTHIER_PII_KEY": "bench", "PYTHONHASHSEED": "0"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # nobody compiles what is installed at every start
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        peak = _Peak(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        peak.close()
        peak_mb = max(peak.tree.rss, usage.ru_maxrss / 1024)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{err.read()[-3000:]}")
        memory = (peak_mb, peak.tree.own, peak.root.rss, peak.root.own)
        return Cost(usage.ru_utime + usage.ru_stime, wall, *memory, out.read())


class _Memory(NamedTuple):
    """What processes hold, in MB; `own` is what is not mapped from files."""

    rss: float
    own: float

    @classmethod
    def of(cls, process: psutil.Process) -> _Memory:
        """That of one process."""
        found = process.memory_info()
        return cls(found.rss / 2**20, (found.rss - getattr(found, "shared", 0)) / 2**20)

    def most(self, other: _Memory) -> _Memory:
        """The higher of each."""
        return _Memory(max(self.rss, other.rss), max(self.own, other.own))


class _Peak:
    """Looks at the memory of a process tree ten times a second, which takes a hundredth of a processor."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._done = threading.Event()
        self.root = _Memory(0, 0)
        self.tree = _Memory(0, 0)
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            try:
                root = psutil.Process(self._pid)
                each = [_Memory.of(process) for process in (root, *root.children(recursive=True))]
            except psutil.NoSuchProcess:
                continue
            self.root = self.root.most(each[0])
            self.tree = self.tree.most(_Memory(*map(sum, zip(*each, strict=True))))

    def close(self) -> None:
        """Look no longer."""
        self._done.set()
        self._thread.join()


def _pieces(text: str) -> set[str]:
    text = " ".join(text.casefold().split())
    return {text[at : at + 5] for at in range(len(text) - 4)} or {text}


def _jaccard(one: set[str], two: set[str]) -> float:
    shared = len(one & two)
    return shared / (len(one) + len(two) - shared)


def _told(cost: Cost) -> str:
    alone = cost.main_mb > 0.9 * cost.peak_mb
    main = "" if alone else f"; of the first process {cost.main_mb:.0f} and {cost.main_own_mb:.0f}"
    return f"{cost.cpu_s:.1f} CPU-s, {cost.wall_s:.1f} s, {cost.peak_mb:.0f} MB ({cost.own_mb:.0f} its own{main})"


def _spread(costs: Sequence[Cost]) -> str:
    return f"{min(one.cpu_s for one in costs):.1f} to {max(one.cpu_s for one in costs):.1f}"


def _figure(name: str, value: float, goal: float, unit: str, **more: str) -> dict[str, Any]:
    device = f"{os.cpu_count()} CPU cores, {platform.machine()}, {platform.system()}"
    return {"figure": name, "value": round(value, 3), "goal": goal, "unit": unit, **more, "device": device}


if __name__ == "__main__":
    main()
