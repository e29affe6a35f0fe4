"""Checkpoints of a running training: one whole file in the step's scratch, replaced now and then.

Weights, moments, the step and the log so far stand in one safetensors file, so that none is newer than another. How
long writing takes decides how often it is done: never more than a small share of the time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from luthier.core.files import write_aside

SHARE = 0.02
"""Share of the time that may go into checkpoints."""
LEAST_SECONDS = 10.0
"""Time between two checkpoints, at least."""


class State(NamedTuple):
    """A training between two steps."""

    step: int
    """Optimizer steps that are done."""
    tensors: dict[str, Tensor]
    log: tuple[str, ...]
    """One line of JSON for each step that is done."""
    threads: int
    """How many threads computed: sums fall differently with another number."""


@dataclass
class Keeper:
    """Keeps the newest state of one training in `path`."""

    path: Path
    key: str
    """Names the training; a file of another one is not read."""
    every: int | None = None
    """Steps between checkpoints; None: by the time that writing takes."""
    _cost_s: float = field(default=0.0, init=False)
    _last: float = field(default_factory=time.monotonic, init=False)

    def due(self, step: int) -> bool:
        """Whether it is time to write."""
        if self.every is not None:
            return step % self.every == 0
        return time.monotonic() - self._last >= max(LEAST_SECONDS, self._cost_s / SHARE)

    def write(self, state: State) -> None:
        """Replace the file by a newer one, whole."""
        begun = time.monotonic()
        about = {"key": self.key, "step": str(state.step), "threads": str(state.threads), "log": "\n".join(state.log)}
        write_aside(self.path, save({name: value.contiguous() for name, value in state.tensors.items()}, about))
        self._last = time.monotonic()
        self._cost_s = self._last - begun

    def read(self) -> State | None:
        """The newest state; None when there is none of this training."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                about: dict[str, str] = file.metadata() or {}
                if about.get("key") != self.key:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        except SafetensorError:
            return None  # not whole: begun by another program; the training starts again
        log = tuple(about["log"].split("\n")) if about["log"] else ()
        return State(int(about["step"]), tensors, log, int(about["threads"]))


def threads() -> int:
    """How many threads compute now."""
    return torch.get_num_threads()
