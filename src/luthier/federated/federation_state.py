"""The encrypted state of a federation between two rounds, and the record of each round."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict

from luthier.core.files import write_atomically
from luthier.federated.aggregator import GlobalWeights
from luthier.federated.messaging.messages import pack_tensors, pack_weights, unpack_tensors, unpack_weights

if TYPE_CHECKING:
    from torch import Tensor

_SERVER, _VARIATE = "server/", "variate/"


class SiteRound(BaseModel):
    """A site's contribution to a round."""

    model_config = ConfigDict(frozen=True)
    rows: int | None = None
    steps: int | None = None
    loss: float | None = None
    """None of the three is known under masks."""
    digest: str
    """SHA-256 of its message."""
    age: int = 0
    """Rounds since it was requested."""


class RoundRecord(BaseModel):
    """The outcome of a round."""

    model_config = ConfigDict(frozen=True)
    round: int
    rows: int | None = None
    """Training rows of all sites that answered; None where masks and a promise to sites hide them."""
    loss: float | None = None
    """Mean loss of the sites, weighted by rows; not reported with `privacy`."""
    error: float | None = None
    """Norm of the error of the sum of the adapters' products, as a share of its norm; None where it is exact."""
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
    """State of the server's optimizer."""
    rounds: tuple[RoundRecord, ...]
    sites: tuple[str, ...]
    classes: Mapping[str, str]
    variates: Mapping[str, Tensor] = {}  # a NamedTuple's default is never changed
    """The control variate that sites share, by parameter name."""
    all_rows: float = 0.0
    """Training rows of all sites; 0 while unknown."""
    waiting: Mapping[str, tuple[int, str]] = {}
    """Sites that have not answered yet: the round that they were asked for, and the digest of its message."""

    def find_counted(self) -> dict[str, int]:
        """The last round in which each site trained what became part of a sum; 0 for none."""
        found = dict.fromkeys(self.sites, 0)
        for record in self.rounds:
            found |= {name: record.round - site.age for name, site in record.sites.items()}
        return found

    def write(self, path: Path) -> None:
        """Seal the state: one file, replaced whole."""
        header = {
            "rounds": [record.model_dump(mode="json") for record in self.rounds],
            "sites": list(self.sites),
            "classes": dict(self.classes),
            "all_rows": self.all_rows,
            "waiting": {name: list(question) for name, question in self.waiting.items()},
        }
        tensors = pack_weights(self.given)
        for prefix, values in ((_SERVER, self.server), (_VARIATE, self.variates)):
            tensors |= {f"{prefix}{name}": value for name, value in values.items()}
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
        server, variates = (
            {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            for prefix in (_SERVER, _VARIATE)
        )
        others = {name: value for name, value in tensors.items() if not name.startswith((_SERVER, _VARIATE))}
        rounds = tuple(RoundRecord.model_validate(entry) for entry in header["rounds"])
        waiting = {name: (number, digest) for name, (number, digest) in header["waiting"].items()}
        return cls(
            unpack_weights(others),
            server,
            rounds,
            tuple(header["sites"]),
            header["classes"],
            variates,
            header["all_rows"],
            waiting,
        )
