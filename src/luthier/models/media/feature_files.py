"""Features of frozen encoders on disk, keyed by everything that determines their bits, for later epochs and runs.

    HOME/TOWER/KK/KEY    one medium: 16 bytes of checksum, then safetensors

Files are renamed into place and have a checksum, so that a kill leaves complete files or none, and several processes
may write at once. They take at most `MOST_BYTES`, and a tenth of the disk; the least recently used ones are removed
when a process starts.
"""

from __future__ import annotations

import os
import platform
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from luthier.core.hashing import digest_of
from luthier.core.system.process import cpu_features
from luthier.models.kernels.calls import get_kernel_names

MOST_BYTES = 8 << 30
"""Maximum bytes of all encoders' features together."""
SHARE_OF_DISK = 0.1
"""Maximum share of the free disk space (their own included)."""
_LEFT = 0.8
"""Share of the limit that remains after removing old files."""
_CHECKSUM_BYTES = 16
_STALE_S = 3600.0
"""Age in seconds of a temporary file that counts as left by a kill."""
_ASIDE = ".tmp"


class _Found(NamedTuple):
    """A feature file, sorted by last use."""

    used: float
    size: int
    path: Path


class FeatureFiles:
    """Stored features of media for one encoder."""

    def __init__(self, home: Path, tower: str, most_bytes: int | None = None) -> None:
        """Open the folder; `tower` identifies everything that determines the features; `home` is the folder of all
        encoders.
        """
        self._home, self._folder = home, home / tower
        self._lock = threading.Lock()
        files = sorted(_list_files(home))
        self._taken = sum(file.size for file in files)
        self._most = _find_limit(home, self._taken) if most_bytes is None else most_bytes
        if self._taken > self._most:
            self._remove_oldest(files)

    def read(self, key: str) -> list[Tensor] | None:
        """Return the features of a key; None where they are missing or damaged."""
        path = self._path(key)
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        body = content[_CHECKSUM_BYTES:]
        if xxhash.xxh3_128_digest(body) != content[:_CHECKSUM_BYTES]:
            return None
        with suppress(SafetensorError):
            tensors = load(body)
            return [tensors[str(at)] for at in range(len(tensors))]
        return None

    def write(self, key: str, tensors: Sequence[Tensor]) -> None:
        """Store features under a key, where there is room."""
        body = save({str(at): value.detach().cpu().contiguous() for at, value in enumerate(tensors)})
        size = len(body) + _CHECKSUM_BYTES
        with self._lock:
            if self._taken + size > self._most:
                return
            self._taken += size
        path = self._path(key)
        aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}{_ASIDE}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(xxhash.xxh3_128_digest(body) + body)
            aside.replace(path)
        except OSError:  # no room, or the folder was removed: nothing more is kept
            self._most = 0
            with suppress(OSError):
                aside.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key

    def _remove_oldest(self, files: Iterable[_Found]) -> None:
        for file in files:
            if self._taken <= _LEFT * self._most:
                break
            with suppress(OSError):
                file.path.unlink(missing_ok=True)
            self._taken -= file.size


def _list_files(home: Path) -> Iterator[_Found]:
    """Yield all feature files; incomplete files of killed writes are removed."""
    for path in home.glob("*/*/*"):
        try:
            stat = path.stat()
            if path.suffix != _ASIDE:
                yield _Found(stat.st_mtime, stat.st_size, path)
            elif stat.st_mtime < time.time() - _STALE_S:
                path.unlink(missing_ok=True)
        except OSError:  # another process has removed it
            continue


def _find_limit(home: Path, taken: int) -> int:
    folder = next(path for path in (home, *home.parents) if path.is_dir())
    return int(min(MOST_BYTES, SHARE_OF_DISK * (shutil.disk_usage(folder).free + taken)))


def name_tower(modules: Sequence[torch.nn.Module], model: Any, *about: Any) -> str:
    """Identify everything that determines the output of a model's modules: their weights, the machine, its libraries
    and threads, and `about`.
    """
    digest = xxhash.xxh3_128()
    for module in modules:
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            flat = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(flat.numpy().data)
    device = next(model.parameters()).device
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    machine = [platform.machine(), cpu_features(), gpu, torch.get_num_threads(), get_kernel_names(model)]
    return digest_of([digest.hexdigest(), machine, *map(version, ("torch", "transformers")), *about])
