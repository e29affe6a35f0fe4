"""Updates that come after their round: they are part of a later one, by their age (FedBuff, Nguyen et al., 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from luthier.core.component import add_field_descriptions
from luthier.core.files import write_atomically
from luthier.federated.aggregator import DOWN, UP, Aggregator
from luthier.federated.messages import digest_message

if TYPE_CHECKING:
    from torch import Tensor


class LateSettings(BaseModel):
    """How updates that come after their round are used."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=add_field_descriptions)

    most_rounds: int = Field(default=3, ge=1)
    """How many rounds an update may be late; a site that is later is asked anew."""
    exponent: float = Field(default=0.5, ge=0)
    """An update of age a (in rounds) counts (1 + a) to the power of minus this; 0.5 as in FedBuff."""

    def weigh(self, age: int) -> float:
        """What is left of a change of an age."""
        return float((1 + age) ** -self.exponent)


def find_late_obstacle(aggregator: Aggregator) -> str:
    """Why changes of an earlier round cannot be added to a later one; empty when they can."""
    if not aggregator.linear:
        return f"{aggregator.kind} begins anew in each round, so that a change of an earlier one belongs nowhere"
    if any(aggregator.freezes(name, 0) != aggregator.freezes(name, 1) for name in (DOWN, UP)):
        return f"{aggregator.kind} trains other weights in the next round"
    return ""


def add_late_change(
    update: Mapping[str, Tensor], begun: Mapping[str, Tensor], given: Mapping[str, Tensor], weight: float
) -> dict[str, Tensor]:
    """A late update as one of this round: what it changed from the weights that it `begun` with, times its weight, upon
    the weights that this round was given."""
    return {
        name: (given[name].double() + weight * (value.double() - begun[name].double())).to(value.dtype)
        for name, value in update.items()
    }


class RoundMessages:
    """The messages of the last rounds: a site that is late may still answer one after the coordinator was killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, number: int, message: bytes) -> None:
        """Keep the message of a round (from 1)."""
        write_atomically(self._folder / str(number), message)

    def read(self, number: int, digest: str) -> bytes | None:
        """The message of a round; None where it is gone, or is not the one with this digest."""
        path = self._folder / str(number)
        content = path.read_bytes() if path.is_file() else b""
        return content if digest_message(content) == digest else None

    def remove(self, keep: Sequence[int]) -> None:
        """Remove all messages but those of some rounds."""
        for path in self._folder.glob("*"):
            if path.name.isdigit() and int(path.name) not in keep:
                path.unlink()
