"""A site's encrypted state after each round.

The state after a round is a file of its own, written before the round's answer. A round that is computed again after a
kill starts from the state before it, so it ends in the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from luthier.core.errors import CorruptArtifact, SourceLocation
from luthier.core.files import write_atomically
from luthier.federated.messaging.messages import pack_tensors, unpack_tensors

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = "state-"


class SavedSiteState(NamedTuple):
    """A site's state after a round."""

    round: int
    """The round (from 1) that it was kept after; 0 where there is none."""
    tensors: Mapping[str, Tensor]
    """By name; each part of a training that stays at the site has a prefix of its own."""


class SiteState:
    """The states of one federation at one site."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch

    def read(self, round_number: int) -> SavedSiteState:
        """Return the state after the last round before a round (from 1); `CorruptArtifact` where a byte differs."""
        before = [number for number in self._list() if number < round_number]
        if not before:
            return SavedSiteState(0, {})
        path = self._find(before[-1])
        sealed = path.read_bytes()
        if hashlib.sha256(sealed[32:]).digest() != sealed[:32]:
            hint = "restore it, or delete the federation's folder and leave the federation"
            where = SourceLocation(file=str(path))
            raise CorruptArtifact("what this site kept differs from what was written", where=where, hint=hint)
        return SavedSiteState(before[-1], unpack_tensors(sealed[32:]))

    def write(self, round_number: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors after a round; those of the round before stay, earlier ones go."""
        content = pack_tensors(tensors)
        path = self._find(round_number)
        write_atomically(path, hashlib.sha256(content).digest() + content)
        path.chmod(0o600)
        before = [number for number in self._list() if number < round_number]
        for number in before[:-1]:
            self._find(number).unlink()

    def _list(self) -> list[int]:
        names = (path.name.removeprefix(_PREFIX) for path in self._scratch.glob(f"{_PREFIX}*"))
        return sorted(int(name) for name in names if name.isdigit())

    def _find(self, round_number: int) -> Path:
        return self._scratch / f"{_PREFIX}{round_number}"
