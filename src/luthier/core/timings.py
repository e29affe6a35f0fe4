"""How quick this machine was, at steps of any recipe of this user's and at probes: what a first plan is told from."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from luthier.core.errors import SystemResourceError
from luthier.core.files import cache_folder, write_atomically
from luthier.core.hashing import digest_of
from luthier.core.system.process import cpu_features

LEAST_S = 10.0
"""A step that was over sooner tells of its beginning, not of this machine; so does a training that learnt for less."""
_GPUS = Path("/proc/driver/nvidia/gpus")
KEPT = 16
"""So many of a kind are remembered, the newest."""


def record_timing(kind: str, measures: Mapping[str, Any]) -> None:
    """Keep what a step of some length measured; where the cache cannot be written, nothing is kept."""
    file = _file(kind)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            records = [dict(measures), *read_timings(kind)][:KEPT]
            write_atomically(file, (json.dumps(records, indent=1, sort_keys=True) + "\n").encode())
    except (OSError, SystemResourceError):
        return


def read_timings(kind: str) -> list[dict[str, Any]]:
    """What steps of a kind measured here, the newest first."""
    try:
        records = json.loads(_file(kind).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []  # never kept, or not whole: what is kept next is
    return [record for record in records if isinstance(record, dict)] if isinstance(records, list) else []


def read_machine_timings(kind: str) -> list[dict[str, Any]]:
    """What steps of all kinds measured here, each with its `step`: one kind first, and of each the newest first."""
    others = sorted(path.stem for path in _file(kind).parent.glob("*.json") if path.stem != kind)
    return [{**timing, "step": name} for name in (kind, *others) for timing in read_timings(name)]


def _file(kind: str) -> Path:
    """Processors of another kind or number, and other GPUs, have a file of their own, wherever the cache moves."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    machine = digest_of([platform.machine(), cpu_features(), os.cpu_count(), threads, *_list_gpus()])
    return cache_folder() / "paces" / machine[:12] / f"{kind}.json"


def _list_gpus() -> list[str]:
    """The models of this machine's NVIDIA GPUs, as the driver names them."""
    lines = [line for path in sorted(_GPUS.glob("*/information")) for line in path.read_text().splitlines()]
    return [line for line in lines if line.startswith("Model:")]
