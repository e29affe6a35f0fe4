"""Updates that come after their round: they are part of a later one, by their age (FedBuff, Nguyen et al., 2022)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from luthier.core.component import add_field_descriptions
from luthier.core.files import write_atomically
from luthier.federated.aggregator import DOWN, UP, Aggregator
from luthier.federated.control_variates import add_variates, split_variates
from luthier.federated.messaging.messages import FederationMessage, RoundStart, digest_message, unpack_weights
from luthier.federated.privacy import clip_change
from luthier.federated.transport import SentMessage

if TYPE_CHECKING:
    from torch import Tensor

MESSAGES = "messages"
"""The folder of the messages that late sites may still answer."""


class LateSettings(BaseModel):
    """How late updates are used."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=add_field_descriptions)

    most_rounds: int = Field(default=3, ge=1)
    """Maximum rounds by which an update may be late; a later site is asked again."""
    exponent: float = Field(default=0.5, ge=0)
    """An update of age a (in rounds) counts (1 + a) to the power of minus this; 0.5 as in FedBuff."""

    def weigh(self, age: int) -> float:
        """Return the weight of a change of an age."""
        return float((1 + age) ** -self.exponent)


def find_late_obstacle(aggregator: Aggregator) -> str:
    """Return why changes of an earlier round cannot be added to a later one; empty when they can."""
    if not aggregator.linear:
        return f"{aggregator.kind} begins anew in each round, so that a change of an earlier one belongs nowhere"
    if any(aggregator.freezes(name, 0) != aggregator.freezes(name, 1) for name in (DOWN, UP)):
        return f"{aggregator.kind} trains other weights in the next round"
    return ""


def add_late_change(
    update: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    weight: float,
    clip: float | None = None,
) -> dict[str, Tensor]:
    """A late update as one of this round: what it changed from the weights that it began with, times its weight, upon
    the weights that this round was given. With a promise to sites the change is clipped before it is weighed: clipped
    after that, a long one would count as much as if it had come in time."""
    change = {name: value.double() - start[name].double() for name, value in update.items()}
    if clip is not None:
        change = clip_change(change, clip)
    return {name: (given[name].double() + weight * change[name]).to(value.dtype) for name, value in update.items()}


class LateAnswers:
    """Sites whose answer to an earlier round is pending, and the use of their updates.

    The messages of those rounds are in the scratch folder, so that sites may answer them after the coordinator was
    killed.
    """

    def __init__(
        self,
        settings: LateSettings | None,
        scratch: Path,
        waiting: Mapping[str, tuple[int, str]],
        number: int,
        find_number: Callable[[int], int],
        clip: float | None = None,
    ) -> None:
        """`waiting` has the round that sites were asked for, and the digest of its message; `number` is this round, and
        `find_number` gives the number of a round's message. `clip` is the norm of a site's change by a promise to
        whole sites."""
        self._settings, self._folder, self.number = settings, scratch / MESSAGES, number
        self._clip = clip
        self._waiting = waiting
        self.sent: dict[str, SentMessage] = {}
        """What each of them was sent; those that are too late, or whose message is gone, are not among them."""
        contents: dict[int, bytes] = {}
        for name, (start, digest) in waiting.items() if settings is not None else ():
            if settings is not None and number - start <= settings.most_rounds:
                if start not in contents:
                    path = self._folder / str(start)
                    contents[start] = path.read_bytes() if path.is_file() else b""
                if digest_message(contents[start]) == digest:
                    self.sent[name] = SentMessage(find_number(start), contents[start])
        self._starts: dict[int, Mapping[str, Tensor]] = {}

    def keep(self, message: bytes) -> None:
        """Keep the message of this round, and those that are still waited for."""
        self._folder.mkdir(exist_ok=True)
        kept = {self.number, *(self._waiting[name][0] for name in self.sent)}
        for path in self._folder.iterdir():
            if path.name.isdigit() and int(path.name) not in kept:
                path.unlink()
        write_atomically(self._folder / str(self.number), message)

    def find_question(self, name: str, digest: str) -> tuple[int, str]:
        """The round that a site was asked for, and the digest of its message, which is `digest` where it is not
        late."""
        return self._waiting[name] if name in self.sent else (self.number, digest)

    def find_age(self, name: str) -> int:
        """Return the rounds since a site was asked."""
        return self.number - self._waiting[name][0] if name in self.sent else 0

    def bring_up(self, name: str, tensors: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return an update relative to this round's initial weights `given`; one in time is unchanged. Control variates
        have no age.
        """
        if name not in self.sent or self._settings is None:
            return tensors
        start, _ = self._waiting[name]
        if start not in self._starts:
            weights, _ = split_variates(FederationMessage.decode(self.sent[name].content, RoundStart).tensors)
            self._starts[start] = unpack_weights(weights).moving
        weights, variates = split_variates(tensors)
        weight = self._settings.weigh(self.find_age(name))
        return add_variates(add_late_change(weights, self._starts[start], given, weight, self._clip), variates)
