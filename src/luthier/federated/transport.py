"""The role `transport`: how messages travel between a coordinator and its sites."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from luthier.core.component import Component
from luthier.core.step import StepContext

if TYPE_CHECKING:
    from luthier.federated.messaging.keys import PublicCard
    from luthier.federated.sites.worker import SiteWorker


class SentMessage(NamedTuple):
    """A message that a site was sent."""

    number: int
    content: bytes


class SiteChannel(ABC):
    """The coordinator's end of a transport."""

    sites: Sequence[str]
    """Names of the sites, in the order in which their weights are summed."""
    cards: Mapping[str, PublicCard] = {}  # replaced whole
    """Each site's public keys, by its name; none for sites in this process without masks."""

    @abstractmethod
    def exchange(self, number: int, contents: Mapping[str, bytes]) -> dict[str, bytes]:
        """Send each site its message; returns the answers of those that came in time, by site."""

    def iterate_answers(self, number: int, contents: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
        """Yield the answers one by one in the order of the messages, as far as the transport can: earlier ones need not
        be kept in memory.
        """
        answers = self.exchange(number, contents)
        yield from ((name, answers[name]) for name in contents if name in answers)

    def expect_bytes(self, most: int) -> None:  # noqa: B027 - most transports have no limit
        """Accept answers of up to `most` bytes, although the message is small."""

    def exchange_with_late(
        self, number: int, contents: Mapping[str, bytes], late: Mapping[str, SentMessage], least: int
    ) -> dict[str, bytes]:
        """As `exchange`, while `late` sites may still answer an earlier message.

        Such answers are accepted as they come, and waited for only until there are `least` in all. For transports whose
        sites may be late.
        """
        raise NotImplementedError(f"sites of {type(self).__name__} are never late")

    def find_scratch(self, site: str) -> Path | None:
        """Return the folder of a simulated site's own files; None for a remote one."""
        return None

    @abstractmethod
    def close(self) -> None:
        """End what was opened."""


class Transport(Component):
    """The base class of transports."""

    role: ClassVar[str] = "transport"
    home: ClassVar[str] = "luthier.federated.transports"
    remote: ClassVar[bool] = True
    """Whether sites are remote and bring their own rows; otherwise the recipe's steps are the sites."""

    @property
    def members(self) -> Mapping[str, str]:
        """The file of each site's public keys, by the site's name; none where sites are steps."""
        return {}

    @abstractmethod
    def open_channel(self, work: StepContext, sites: Sequence[str]) -> SiteChannel:
        """Open the coordinator's end; `sites` are the recipe's steps, none where sites are elsewhere."""


class LocalChannel(SiteChannel):
    """Sites in this process, which train one after another."""

    def __init__(self, workers: Mapping[str, SiteWorker], cards: Mapping[str, PublicCard]) -> None:
        self._workers, self.cards = workers, cards
        self.sites = tuple(workers)

    def exchange(self, number: int, contents: Mapping[str, bytes]) -> dict[str, bytes]:
        """Have each site answer."""
        return {name: self._workers[name].answer(number, content) for name, content in contents.items()}

    def iterate_answers(self, number: int, contents: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
        """Run each site when its answer is needed."""
        for name, content in contents.items():
            yield from self.exchange(number, {name: content}).items()

    def find_scratch(self, site: str) -> Path | None:
        """The scratch folder of its worker."""
        return self._workers[site].scratch

    def close(self) -> None:
        """There is nothing to close."""
