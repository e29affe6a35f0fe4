"""Stored states of trunks: the steps that a longer training has in common with a shorter one.

With a learning rate that is constant until it decays at the end (`wsd`; Hägele et al., 2024), the weights before the
decay do not depend on where the training ends. Such a state is stored across runs under a digest of all that determines
it, and a longer training starts there, with the same bytes as a training from the first step. A missing or corrupt
state is computed again. All states together take at most `SHARE_OF_DISK` of the free disk space; the least recently
used ones are removed first.
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
"""Maximum share of the disk's free space (the states' own included) for states."""
_ENDING = ".safetensors"


@dataclass
class TrunkStates:
    """Stored states of trainings with the same beginning, one file for each step."""

    home: Path
    """Has a folder for each digest."""
    prefix: str
    """Digest of all that determines the states."""
    keep: bool
    """Whether this training stores its own."""
    say: Callable[[str], None]
    _written: CheckpointManager | None = field(default=None, init=False)

    @property
    def folder(self) -> Path:
        """Folder of the states with this digest."""
        return self.home / self.prefix

    def read(self, most: int, fits: Callable[[TrainingState], bool]) -> TrainingState | None:
        """Return the latest complete state after at most `most` steps that fits this machine's way of computing; else
        None.
        """
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
        """Return whether the state after a step is to be stored, and is not yet."""
        return self.keep and not self._path(step).is_file()

    def write(self, state: TrainingState) -> None:
        """Store a state in the background; without enough space it is not stored."""
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
        """Finish at the end of a training with `trunk` steps in the trunk: wait for writes, and remove the states that
        it has passed, except its own.
        """
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
        """Remove the least recently used states until `size` more bytes are within the share."""
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
        """Yield all states of all trainings, and incomplete files of killed writes: last use, bytes and path."""
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
