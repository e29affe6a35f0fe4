"""Check this machine: what it can do, what is missing, and the command that adds it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from luthier.core.files import cache_folder
from luthier.models.cost import has_gpu
from luthier.models.kernels.compile import find_c_compiler
from luthier.recipe.workspace import Workspace

State = Literal["good", "note", "missing"]
_NEEDED = (
    "torch",
    "transformers",
    "peft",
    "tokenizers",
    "safetensors",
    "polars",
    "pyarrow",
    "scikit-learn",
    "sqlalchemy",
)
_EXTRAS = {"s3fs": "s3", "psycopg": "postgres"}


@dataclass(frozen=True)
class HealthCheck:
    """The result of one check of this machine."""

    state: State
    what: str
    came: str
    hint: str = ""

    def as_json(self) -> dict[str, Any]:
        """The finding as `doctor --json` prints it."""
        return {"state": self.state, "what": self.what, "came": self.came, "hint": self.hint}


def run_health_checks(workspace: Workspace) -> list[HealthCheck]:
    """Look at Python, processor, memory, disk, libraries, package index and GPU, without loading torch."""
    return [*_machine(), *_disks(workspace), *_libraries(), *_doors()]


def _machine() -> Iterator[HealthCheck]:
    yield HealthCheck("good", "python", platform.python_version())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield HealthCheck("good" if cores > 1 else "note", "cores", str(cores))
    memory = memory_bytes()
    low = memory < 6 << 30
    hint = "small models only; close other programs" if low else ""
    yield HealthCheck("note" if low else "good", "memory", f"{memory / 2**30:.1f} GiB", hint)
    flags = processor_flags()
    quick = bool(flags & {"avx512_bf16", "amx_bf16"})
    came = (
        "bfloat16 in hardware" if quick else "no bfloat16 in hardware: tuning runs in float32, at about half the speed"
    )
    yield HealthCheck("good" if quick else "note", "processor", came)
    found = find_c_compiler()
    came = found or "none: tuning in bfloat16 and writing answers take about twice as long on the CPU"
    yield HealthCheck(
        "good" if found else "note", "C compiler", came, "" if found else "Debian: apt-get install gcc libc6-dev"
    )
    gpu = has_gpu() or shutil.which("nvidia-smi") is not None
    yield HealthCheck(
        "good" if gpu else "note", "gpu", "an NVIDIA driver is present" if gpu else "none; the CPU is used"
    )


def memory_bytes() -> int:
    """Physical memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def processor_flags() -> set[str]:
    """The processor's feature flags as Linux names them; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return set()
    lines = (line for line in path.read_text().splitlines() if line.startswith("flags"))
    return set(next(lines, "").split())


def _disks(workspace: Workspace) -> Iterator[HealthCheck]:
    for what, path in (("store", workspace.store_location), ("cache", str(cache_folder()))):
        if "://" in path:
            yield HealthCheck("good", what, path)
            continue
        folder = Path(path)
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        writable = os.access(folder, os.W_OK)
        came = f"{path}, {free / 2**30:.1f} GiB free" + ("" if writable else ", not writable")
        variable = "LUTHIER_STORE" if what == "store" else "LUTHIER_CACHE"
        good = writable and free > 2 << 30
        yield HealthCheck(
            "good" if good else "missing", what, came, "" if good else f"set {variable} to another folder"
        )


def _libraries() -> Iterator[HealthCheck]:
    for name in _NEEDED:
        try:
            yield HealthCheck("good", name, version(name))
        except PackageNotFoundError:
            yield HealthCheck("missing", name, "not installed", f"pip install {name}")
    for module, extra in _EXTRAS.items():
        there = find_spec(module) is not None
        came = "installed" if there else "not installed (optional)"
        yield HealthCheck(
            "good" if there else "note", f"extra {extra}", came, "" if there else f"pip install 'luthier[{extra}]'"
        )


def _doors() -> Iterator[HealthCheck]:
    pip = find_spec("pip") is not None
    hint = "" if pip else f"{sys.executable} -m ensurepip"
    yield HealthCheck(
        "good" if pip else "missing", "pip", "present" if pip else "absent: wheels cannot be fetched", hint
    )
    yield HealthCheck("note", "completion", "of commands in your shell", "luthier --install-completion")
