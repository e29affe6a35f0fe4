"""Checkpoints of a running training: the newest state and the best weights, and the weights of kept epochs.

Weights, moments, the step and the log so far are in one safetensors file, so they always match. A state is copied in
memory between two steps; a thread writes and renames the file while training continues. Where memory is short, training
waits for the write. A kill at any moment leaves the previous file. A file has a digest of its contents; a corrupt one
is ignored.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from luthier.core.errors import ModelError, SourceLocation
from luthier.core.files import sync, translate_write_errors

SHARE = 0.02
"""Target share of the time for checkpoints; half as much again is reserved for estimates that were too low."""
BYTES_PER_S = 200e6
"""Assumed write speed before the first checkpoint: slow."""
ROOM = 4
"""A state is copied in memory when this many times its size is free."""
LEAST_SECONDS = 10.0
"""Minimum time between two checkpoints."""

_MEMORY = Path("/proc/meminfo")
_DIGEST = "digest"


class TrainingState(NamedTuple):
    """The full state of a training between two steps."""

    step: int
    """Number of finished optimizer steps."""
    tensors: dict[str, Tensor]
    log: tuple[str, ...]
    """One line of JSON for each finished step."""
    threads: int
    """Number of computing threads: it changes the rounding of sums."""
    tokens: int
    """Maximum tokens of a microbatch."""
    since: int = 0
    """The step at which this training took over the state of another one; 0 at its own start."""
    kernels: str = ""
    """The compiled kernels in use; empty where torch computed."""
    lanes: int = 1
    """Maximum number of packs read in parallel."""


@dataclass
class CheckpointManager:
    """Keeps the newest state of one training in `path`, and its best weights next to it."""

    path: Path
    key: str
    """Identifies the training; a file of another one is not read."""
    start: Path | None = None
    """A state of another training to resume from."""
    every: int | None = None
    """Steps between checkpoints; None: as often as `SHARE` of the time allows."""
    spent_s: float = field(default=0.0, init=False)
    """Seconds in which training waited for checkpoints, in this process."""
    _rate: float = field(default=BYTES_PER_S, init=False)
    _begun: float = field(default_factory=time.monotonic, init=False)
    _last: float = field(default_factory=time.monotonic, init=False)
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1), init=False)
    _writing: Future[None] | None = field(default=None, init=False)

    @property
    def best_path(self) -> Path:
        """File of the best weights."""
        return self.path.with_name("best.safetensors")

    def is_due(self, step: int, size: int) -> bool:
        """Return whether to write a state of `size` bytes now."""
        if self.every is not None:
            return step % self.every == 0
        if self._writing is not None and not self._writing.done():
            return False
        now = time.monotonic()
        affordable = self.spent_s + size / self._rate <= SHARE * (now - self._begun)
        return affordable and now - self._last >= LEAST_SECONDS

    def write(self, state: TrainingState) -> None:
        """Copy a state and replace the previous file in the background."""
        about = {
            "step": str(state.step),
            "threads": str(state.threads),
            "tokens": str(state.tokens),
            "since": str(state.since),
            "kernels": state.kernels,
            "lanes": str(state.lanes),
        }
        self._write(self.path, state.tensors, {**about, "log": "\n".join(state.log)})
        self._last = time.monotonic()

    def write_best(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Copy the best weights so far; a state that is written later never reaches the disk before them."""
        self._write(self.best_path, weights, {"step": str(step)})

    def write_epoch(self, weights: Mapping[str, Tensor], epoch: int, step: int) -> None:
        """Copy the weights at the end of an epoch, like the best ones."""
        self._write(self._epoch_path(epoch), weights, {"step": str(step)})

    def read_epoch(self, epoch: int) -> tuple[int, dict[str, Tensor]] | None:
        """Return the weights at the end of an epoch, and their step; None when there are none."""
        loaded = self._read_file(self._epoch_path(epoch))
        return (int(loaded[1]["step"]), loaded[0]) if loaded else None

    def write_kept(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Copy a state to be kept, like the best weights."""
        self._write(self._kept_path(step), tensors, {"step": str(step)})

    def read_kept(self, step: int) -> dict[str, Tensor] | None:
        """Return the kept state of a step; None when there is none."""
        loaded = self._read_file(self._kept_path(step))
        return loaded[0] if loaded else None

    def _kept_path(self, step: int) -> Path:
        return self.path.with_name(f"state-{step}.safetensors")

    def _epoch_path(self, epoch: int) -> Path:
        return self.path.with_name(f"epoch-{epoch}.safetensors")

    def _write(self, path: Path, tensors: Mapping[str, Tensor], about: dict[str, str]) -> None:
        start = time.monotonic()
        self.wait()
        size = count_tensor_bytes(tensors)
        metadata = {"key": self.key, **about}
        if _has_room(ROOM * size):
            self._writing = self._writer.submit(
                _put, path, {name: _copy_to_cpu(value) for name, value in tensors.items()}, metadata
            )
        else:
            _put(path, tensors, metadata)
        took = time.monotonic() - start
        self.spent_s += took
        self._rate = max(1.0, size / max(took, 1e-6))

    def wait(self) -> None:
        """Wait until all copies are on disk; `SystemResourceError` when one could not be written."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def read(self) -> TrainingState | None:
        """Return the newest state; None when there is none of this training."""
        if (loaded := self._read_file(self.path)) is not None:
            return _state(*loaded)
        if self.start is None:
            return None
        if (loaded := self._read_file(self.start)) is None:
            what = "is no state that a training with this technique and optimizer stopped at"
            raise ModelError(
                what, where=SourceLocation(file=str(self.start)), hint="name the file that its error told of"
            )
        state = _state(*loaded)
        return state._replace(since=state.step)

    def read_best(self) -> tuple[int, dict[str, Tensor]] | None:
        """Return the best weights and their step; None when there are none of this training."""
        loaded = self._read_file(self.best_path)
        return (int(loaded[1]["step"]), loaded[0]) if loaded else None

    def _read_file(self, path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        self.wait()
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                about: dict[str, str] = file.metadata() or {}
                if about.get("key") != self.key:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        except (SafetensorError, OSError):
            return None  # not whole, begun by another program, or gone by now; the training starts again
        return (tensors, about) if about.pop(_DIGEST, "") == _digest(tensors, about) else None


def _state(tensors: dict[str, Tensor], about: dict[str, str]) -> TrainingState:
    log = tuple(about["log"].split("\n")) if about["log"] else ()
    step, threads, tokens, since = (int(about[name]) for name in ("step", "threads", "tokens", "since"))
    kernels, lanes = about.get("kernels", ""), int(about.get("lanes", 1))
    return TrainingState(step, tensors, log, threads, tokens, since, kernels, lanes)


def _put(path: Path, tensors: Mapping[str, Tensor], about: dict[str, str]) -> None:
    """Write tensors to a temporary file, then rename it over the previous one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with translate_write_errors(path):
        whole = {name: value.contiguous() for name, value in tensors.items()}
        save_file(whole, aside, {**about, _DIGEST: _digest(whole, about)})
        sync(aside)
        aside.replace(path)
        sync(path.parent)


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Return the XXH3-128 of a file's contents: names, shapes, dtypes and bytes of its tensors, and its metadata."""
    state = xxhash.xxh3_128(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        state.update(f"\0{name} {tuple(value.shape)} {value.dtype}\0".encode())
        state.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def _copy_to_cpu(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)


def _has_room(size: int) -> bool:
    """Return whether this machine has that many bytes of memory free; True where the system does not report it."""
    if not _MEMORY.is_file():
        return True
    free = next(line for line in _MEMORY.read_text().splitlines() if line.startswith("MemAvailable"))
    return int(free.split()[1]) * 1024 >= size


def count_tensor_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the total bytes of some tensors."""
    return sum(value.nbytes for value in tensors.values())


def count_threads() -> int:
    """Return the number of computing threads."""
    return torch.get_num_threads()
