"""What the store costs a step that works for one minute, and how many finished artifacts it looks up per second.

    python benchmarks/store.py [--quick]

Around a step the store names the artifact (digest of settings, code and inputs), takes its lock, checks every byte of
the inputs, and at the end hashes what was made, flushes it to the disk, writes the manifest and renames. Writing the
bytes is the step's own work; bringing them from the system's memory to the disk counts as the store's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from luthier.core.artifact import Artifact, Manifest
from luthier.core.hashing import digest_of, digest_package_code
from luthier.core.store import Store

MEGABYTE = 1_000_000
STEP_S = 60.0
GOAL_SHARE = 0.02
GOAL_LOOKUPS = 1000
PACKAGES = (
    "luthier.core",
    "luthier.chat",
    "luthier.pii",
    "luthier.lang",
    "luthier.artifacts",
    "luthier.models",
    "luthier.metrics",
    "luthier.tune",
)


def main() -> None:
    """Run every figure and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of ten")
    rounds = 3 if parser.parse_args().quick else 10
    with tempfile.TemporaryDirectory(dir=os.environ.get("LUTHIER_BENCH_DIR")) as folder:
        store = Store(Path(folder) / "store")
        figures = [*overheads(store, rounds), lookups(store, rounds)]
    for figure in figures:
        print(json.dumps(figure))


def overheads(store: Store, rounds: int) -> Iterator[dict[str, object]]:
    """The store's share of a step that reads a model of 270 MB and makes an adapter, or makes the model itself."""
    base = make(store, "base", 270 * MEGABYTE, 4)[0]
    for name, size, files, inputs in (
        ("makes 270 MB in 4 files, reads nothing", 270, 4, ()),
        ("makes 40 MB in 12 files, reads 270 MB", 40, 12, (base,)),
    ):
        print(f"\na step that {name}, {rounds} rounds:")
        taken = [make(store, f"{name} {number}", size * MEGABYTE, files, inputs)[1] for number in range(rounds)]
        for part in taken[0]:
            print(f"  {part:<28} {statistics.median(one[part] for one in taken) * 1000:9.2f} ms (median)")
        totals = [sum(one.values()) for one in taken]
        print(f"  {'all':<28} {statistics.median(totals) * 1000:9.2f} ms (median), {max(totals) * 1000:.2f} ms (worst)")
        share = statistics.median(totals) / STEP_S
        yield figure("store_overhead_share", share, GOAL_SHARE, f"share of a {STEP_S:g} s step that {name}")


def make(
    store: Store, name: str, size: int, files: int, inputs: tuple[Artifact, ...] = ()
) -> tuple[Artifact, dict[str, float]]:
    """Make one artifact as a run does, and take the time of everything that is not the step's own work."""
    taken: dict[str, float] = {}
    with clock(taken, "digest of code and settings"):
        digest_package_code.cache_clear()
        digest = digest_of([name, digest_package_code(*PACKAGES), [artifact.digest for artifact in inputs]])
    with clock(taken, "look-up"):
        assert not store.has(digest)
    with clock(taken, "lock"):
        held = store.lock(digest)
        held.__enter__()
    with clock(taken, "folder"):
        folder, _ = store.begin(digest)
    with clock(taken, "check of the inputs"):
        for artifact in inputs:
            store.open(artifact.digest).check()
    fill(folder, size, files)
    with clock(taken, "hash, flush, manifest, rename"):
        artifact = store.finish(manifest(digest), {"seconds": STEP_S})
    held.__exit__(None, None, None)
    return artifact, taken


def fill(folder: Path, size: int, files: int) -> None:
    """Write the artifact's bytes, as a step does: the system may still hold them in memory."""
    for number in range(files):
        with (folder / f"part{number}.bin").open("wb") as file:
            left = size // files
            while left:
                left -= file.write(os.urandom(min(left, 4 * MEGABYTE)))


def manifest(digest: str) -> Manifest:
    """A manifest before its files are known."""
    nothing: dict[str, str] = {}
    return Manifest(
        digest=digest,
        kind="bench",
        makes="model",
        settings={},
        inputs=nothing,
        reads=nothing,
        code="",
        seed=0,
        files=[],
    )


@contextmanager
def clock(taken: dict[str, float], part: str) -> Iterator[None]:
    """Add the seconds of a part."""
    start = time.perf_counter()
    yield
    taken[part] = time.perf_counter() - start


def lookups(store: Store, rounds: int) -> dict[str, object]:
    """How many cached steps per second are found and opened, in a store of 500 artifacts."""
    for number in range(500):
        digest = digest_of(number)
        folder, _ = store.begin(digest)
        (folder / "row.json").write_text(str(number))
        store.finish(manifest(digest), {})
    digests = store.digests()
    print(f"\nlooking up and opening each of {len(digests)} artifacts, {rounds} rounds")
    rates = [
        len(digests) / seconds(lambda: [store.open(digest) for digest in digests if store.has(digest)])
        for _ in range(rounds)
    ]
    print(f"  {statistics.median(rates):.0f} per second (median)")
    return figure("cached_lookups_per_second", statistics.median(rates), GOAL_LOOKUPS, "artifacts/s")


def seconds(work: Callable[[], object]) -> float:
    """How long some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def figure(name: str, value: float, goal: float, unit: str) -> dict[str, object]:
    """One figure in the documented shape."""
    device = f"{os.cpu_count()} CPU cores, {platform.machine()}, {platform.system()}"
    return {"figure": name, "value": round(value, 5), "goal": goal, "unit": unit, "device": device}


if __name__ == "__main__":
    if shutil.disk_usage(tempfile.gettempdir()).free < 8_000 * MEGABYTE:
        raise SystemExit("wants 8 GB of free disk for its artifacts")
    main()
