"""What a federation is between two rounds, sealed in one file, and the record of each round."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict

from luthier.core.files import write_atomically
from luthier.federated.aggregator import GlobalWeights
from luthier.federated.messages import pack_tensors, pack_weights, unpack_tensors, unpack_weights

if TYPE_CHECKING:
    from torch import Tensor

_SERVER = "server/"


class SiteRound(BaseModel):
    """What a site gave for a round."""

    model_config = ConfigDict(frozen=True)
    rows: int | None = None
    steps: int | None = None
    loss: float | None = None
    """None of the three is known under masks."""
    digest: str
    """SHA-256 of its message."""


class RoundRecord(BaseModel):
    """What became of a round."""

    model_config = ConfigDict(frozen=True)
    round: int
    rows: int | None = None
    """Training rows of all sites that answered; None where masks and a promise to sites hide them."""
    loss: float | None = None
    """The sites' mean losses, weighed by rows; with `privacy`, none is told."""
    error: float | None = None
    """How far the sum of the adapters' products was missed, as a share of its norm; None where it is exact."""
    sites: dict[str, SiteRound]
    missing: list[str] = []
    """Sites whose update did not come in time, or whose group was left out."""
    down_bytes: int
    """Bytes to each site."""
    up_bytes: int
    """Bytes from the site that sent most."""


class FederationState(NamedTuple):
    """A federation between two rounds."""

    given: GlobalWeights
    server: Mapping[str, Tensor]
    """What the server's optimizer remembers."""
    rounds: tuple[RoundRecord, ...]
    sites: tuple[str, ...]
    classes: Mapping[str, str]

    def write(self, path: Path) -> None:
        """Seal the state: one file, replaced whole."""
        header = {
            "rounds": [record.model_dump(mode="json") for record in self.rounds],
            "sites": list(self.sites),
            "classes": dict(self.classes),
        }
        tensors = {**pack_weights(self.given), **{f"{_SERVER}{name}": value for name, value in self.server.items()}}
        text = json.dumps(header, sort_keys=True).encode()
        content = len(text).to_bytes(8, "big") + text + pack_tensors(tensors)
        write_atomically(path, hashlib.sha256(content).digest() + content)

    @classmethod
    def read(cls, path: Path) -> FederationState | None:
        """The newest sealed state; None where there is none, or it is not whole."""
        if not path.is_file():
            return None
        sealed = path.read_bytes()
        content = sealed[32:]
        if hashlib.sha256(content).digest() != sealed[:32]:
            return None
        length = int.from_bytes(content[:8], "big")
        header = json.loads(content[8 : 8 + length])
        tensors = unpack_tensors(content[8 + length :])
        server = {name.removeprefix(_SERVER): value for name, value in tensors.items() if name.startswith(_SERVER)}
        given = unpack_weights({name: value for name, value in tensors.items() if not name.startswith(_SERVER)})
        rounds = tuple(RoundRecord.model_validate(entry) for entry in header["rounds"])
        return cls(given, server, rounds, tuple(header["sites"]), header["classes"])
