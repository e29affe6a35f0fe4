"""Unpredictable random numbers: SHAKE-256 of a key from the system's generator.

The key is stored next to the checkpoints until the training ends, so that a killed run resumes to the same bytes. It is
never part of an artifact: whoever knows it can subtract the noise.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.files import write_atomically

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

KEY = "privacy.key"
KEY_BYTES = 32


class NoiseKey:
    """A secret key and the random numbers derived from it and a label."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def load(cls, scratch: Path) -> NoiseKey:
        """Load the key of a started training, or make a new one."""
        path = scratch / KEY
        if not path.is_file() or len(path.read_bytes()) != KEY_BYTES:
            write_atomically(path, os.urandom(KEY_BYTES))
            path.chmod(0o600)
        return cls(path.read_bytes())

    def derive(self, label: str) -> NoiseKey:
        """Derive a key for a label."""
        return NoiseKey(hashlib.sha256(self._secret + b"key/" + label.encode()).digest())

    @staticmethod
    def forget(scratch: Path) -> None:
        """Remove the key once the training is done."""
        (scratch / KEY).unlink(missing_ok=True)

    def draw_bytes(self, label: str, count: int) -> bytes:
        """Return `count` random bytes; a longer draw begins with the same bytes."""
        return hashlib.shake_256(self._secret + label.encode()).digest(count)

    def draw_uniform(self, label: str, count: int) -> NDArray[np.float64]:
        """Return `count` numbers in (0, 1], 53 bits each; the same ones for the same label."""
        import numpy as np

        bits = np.frombuffer(self.draw_bytes(label, 8 * count), dtype="<u8") >> np.uint64(11)
        return (bits.astype(np.float64) + 1.0) * 2.0**-53

    def draw_normal(self, label: str, shape: Sequence[int]) -> torch.Tensor:
        """Return standard normal numbers in float64, by the Box-Muller transform."""
        import numpy as np
        import torch

        count = int(np.prod(shape, dtype=np.int64))
        pairs = -(-count // 2)
        uniform = self.draw_uniform(label, 2 * pairs)
        radius, angle = np.sqrt(-2.0 * np.log(uniform[:pairs])), 2.0 * np.pi * uniform[pairs:]
        numbers = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
        return torch.from_numpy(numbers).reshape(tuple(shape))
