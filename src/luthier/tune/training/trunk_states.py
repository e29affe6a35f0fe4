"""States at which trainings leave the trunk: the steps that a longer training has in common with a shorter one.

With a rate that stays constant until it falls at the end (`wsd`; Hägele et al., 2024), the weights before the fall do
not depend on where the training ends. Such a state is kept from run to run under a digest of all that decides it, and a
longer training begins there, in the bytes of one that went the whole way. What is missing, spoilt or another's is made
anew. All states together take at most `SHARE_OF_DISK` of what the disk has left; those that were used longest ago go.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError

from luthier.core.errors import SystemResourceError
from luthier.tune.training.checkpoint import CheckpointManager, TrainingState, count_tensor_bytes

SHARE_OF_DISK = 0.1
"""Share of the disk's free space, with what states take of it, that they may take."""
_ENDING = ".safetensors"


@dataclass
class TrunkStates:
    """The kept states of trainings that begin alike, one file for each step at which one was kept."""

    home: Path
    """Holds a folder for each beginning."""
    prefix: str
    """Digest of all that decides the states."""
    keep: bool
    """Whether this training keeps its own."""
    say: Callable[[str], None]
    _written: CheckpointManager | None = field(default=None, init=False)

    @property
    def folder(self) -> Path:
        """Where the states with this beginning are."""
        return self.home / self.prefix

    def read(self, most: int, fits: Callable[[TrainingState], bool]) -> TrainingState | None:
        """The latest whole state after at most so many steps that fits this machine's way of computing; else None."""
        for step in sorted((step for step in self._steps() if 0 < step <= most), reverse=True):
            state = self._manager(step).read()
            if state is not None and state.step == step == len(state.log) and fits(state):
                self._mark_used(step)
                return state
        return None

    def _mark_used(self, step: int) -> None:
        try:
            os.utime(self._path(step))
        except OSError:
            return  # removed by another training since it was read, or not ours to touch

    def wants(self, step: int) -> bool:
        """Whether the state after a step is to be kept, and is not yet."""
        return self.keep and not self._path(step).is_file()

    def write(self, state: TrainingState) -> None:
        """Take a state, which is written beside the training; where there is no room for it, it is not kept."""
        size = count_tensor_bytes(state.tensors)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._make_room(size):
                self.say(f"the state after step {state.step} is not kept: its {size:,} bytes are too many for the disk")
                return
            self._written = self._manager(state.step)
            self._written.write(state)
        except (OSError, SafetensorError, SystemResourceError) as error:
            self._fail(error)

    def close(self, trunk: int) -> None:
        """At the end of a training with so many steps in the trunk: wait for what was taken, and remove the states that
        it has passed, but for its own that is kept."""
        try:
            if self._written is not None:
                self._written.wait()
            if not self.keep:
                self._remove_states(trunk + 1)
            elif self._path(trunk).is_file():
                self._remove_states(trunk)
        except (OSError, SafetensorError, SystemResourceError) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._written = None
        self.say(f"the state at the end of the trunk could not be kept: {error}")

    def _remove_states(self, below: int) -> None:
        """Remove the states after fewer steps."""
        for step in self._steps():
            if step < below:
                self._path(step).unlink(missing_ok=True)

    def _make_room(self, size: int) -> bool:
        """Remove states, those first that were used longest ago, until so many bytes more are within the share."""
        files = sorted(self._files())
        taken = sum(bytes_ for _, bytes_, _ in files)
        most = SHARE_OF_DISK * (shutil.disk_usage(self.home).free + taken)
        if size > most:
            return False
        for _, bytes_, path in files:
            if taken + size <= most:
                break
            path.unlink(missing_ok=True)
            taken -= bytes_
        return True

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """All states of all trainings, and what is left of writing that was killed: last use, bytes and path."""
        for path in self.home.glob("*/*"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # another training has removed it
                continue
            yield stat.st_mtime, stat.st_size, path

    def _steps(self) -> list[int]:
        names = [path.stem for path in self.folder.glob(f"*{_ENDING}")]
        return [int(name) for name in names if name.isascii() and name.isdigit()]

    def _path(self, step: int) -> Path:
        return self.folder / f"{step}{_ENDING}"

    def _manager(self, step: int) -> CheckpointManager:
        return CheckpointManager(self._path(step), self.prefix)
