"""The coordinator's end of a transport that nothing is trusted with: envelopes to each site, and their answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Annotated

from pydantic import Field

from luthier.core.component import BasicMarker
from luthier.core.errors import InputError, SourceLocation
from luthier.core.files import PathText, resolve_path, write_atomically
from luthier.core.hashing import digest_of
from luthier.core.step import StepContext
from luthier.federated.errors import MessageError
from luthier.federated.messaging.keys import FederationIdentity, PublicCard
from luthier.federated.messaging.mailbox import get_answer_name, get_message_name, read_envelope_file
from luthier.federated.transport import SentMessage, SiteChannel, Transport

MOST_NAMED = 5
"""Sites that are named in a line of progress."""
POLL_S = 0.1
SPARE = 1 << 20
"""Bytes by which an answer may be larger than twice what the site was sent: masked numbers are twice as wide."""


class Post(ABC):
    """Carries envelopes; it may read their headers, and nothing else."""

    @abstractmethod
    def put(self, site: str, number: int, envelope: bytes) -> None:
        """Hold an envelope for a site, in place of an earlier one; an answer to that is gone."""

    @abstractmethod
    def get(self, site: str, number: int) -> bytes | None:
        """The answer of a site; None where there is none yet."""

    def expect_bytes(self, most: int) -> None:  # noqa: B027 - not all have a limit
        """Accept answers of up to `most` bytes, although the message is small."""

    @abstractmethod
    def discard(self, site: str, number: int) -> None:
        """Remove an answer that is none, so that the site can bring its own."""

    @abstractmethod
    def close(self) -> None:
        """End what was opened."""


class FolderPost(Post):
    """Files in a folder of one federation."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._largest: dict[str, int] = {}
        self._expected = 0

    def expect_bytes(self, most: int) -> None:
        """Accept answers of up to `most` bytes, although the message is small."""
        self._expected = most

    def put(self, site: str, number: int, envelope: bytes) -> None:
        """Write the file whole."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._largest[site] = max(self._largest.get(site, 0), len(envelope))
        for path in self._folder.glob(f"*-to-{site}"):
            if path.name.partition("-to-")[2] == site:
                path.unlink()  # what was sent before is answered, or came too late
        (self._folder / get_message_name(number, site)).unlink(missing_ok=True)
        (self._folder / get_answer_name(number, site)).unlink(missing_ok=True)
        write_atomically(self._folder / get_message_name(number, site), envelope)

    def get(self, site: str, number: int) -> bytes | None:
        """Read the answer's file, if it exists."""
        most = max(2 * self._largest.get(site, 0), self._expected) + SPARE
        return read_envelope_file(self._folder / get_answer_name(number, site), most)

    def discard(self, site: str, number: int) -> None:
        """Remove the answer's file."""
        (self._folder / get_answer_name(number, site)).unlink(missing_ok=True)

    def close(self) -> None:
        """Files stay."""


class EnvelopeChannel(SiteChannel):
    """Sites elsewhere, known by their keys."""

    def __init__(
        self,
        work: StepContext,
        identity: FederationIdentity,
        cards: Mapping[str, PublicCard],
        post: Post,
        wait_s: float,
    ) -> None:
        self._work, self._identity, self._post, self._wait_s = work, identity, post, wait_s
        self.sites = tuple(cards)
        self.cards = cards
        self._sent: dict[str, int] = {}
        """The number of the message that each site was sent last, by this process."""
        self._warned: set[tuple[str, int]] = set()
        """Sites and numbers for which something came that was none of their answers."""

    def exchange(self, number: int, contents: Mapping[str, bytes]) -> dict[str, bytes]:
        """Write to each site, and wait for its answer. What is not the site's own is left out with a warning, and the
        site's own is waited for: others may write where answers are."""
        return self.exchange_with_late(number, contents, {}, len(contents))

    def exchange_with_late(
        self, number: int, contents: Mapping[str, bytes], late: Mapping[str, SentMessage], least: int
    ) -> dict[str, bytes]:
        """As `exchange`, and accept answers to earlier messages."""
        sent = {**{name: SentMessage(number, content) for name, content in contents.items()}, **late}
        for name, message in sent.items():
            if name in contents or self._sent.get(name) != message.number:
                self._put(name, message)
        found: dict[str, bytes] = {}
        answered = -1
        end = monotonic() + self._wait_s
        while True:
            gone = self.list_gone()
            for name, message in sent.items():
                if name not in found and (answer := self._get(name, message.number)) is not None:
                    found[name] = answer
            waiting = [name for name in sent if name not in found and name not in gone]
            if len(found) != answered and waiting:
                answered = len(found)
                rest = f" and {len(waiting) - MOST_NAMED} more" if len(waiting) > MOST_NAMED else ""
                names = ", ".join(waiting[:MOST_NAMED]) + rest
                self._work.events.progress(answered, len(sent), "answers", message=number, waits_for=names)
            if not any(name in contents or len(found) < least for name in waiting) or monotonic() >= end:
                return {name: found[name] for name in sent if name in found}
            sleep(POLL_S)

    def _get(self, name: str, number: int) -> bytes | None:
        """The answer of a site, where its own has come."""
        if (envelope := self._post.get(name, number)) is None:
            return None
        try:
            return self._identity.open(envelope, self.cards[name], self._work.digest, number)
        except MessageError as error:
            self._post.discard(name, number)
            if (name, number) not in self._warned:
                self._work.events.warning(f"what came as the answer of site {name} is none: {error.message}")
            self._warned.add((name, number))
            return None

    def _put(self, name: str, message: SentMessage) -> None:
        """Write to a site; it is not asked any more for what it was sent before."""
        envelope = self._identity.seal(message.content, self.cards[name], self._work.digest, message.number)
        self._post.put(name, message.number, envelope)
        self._sent[name] = message.number

    def expect_bytes(self, most: int) -> None:
        """Accept answers of up to `most` bytes."""
        self._post.expect_bytes(most)

    def list_gone(self) -> frozenset[str]:
        """Sites that will not answer any more."""
        return frozenset()

    def close(self) -> None:
        """Close the post."""
        self._post.close()


def read_member_cards(paths: Mapping[str, str], recipe_dir: Path, revoked: Sequence[str] = ()) -> dict[str, PublicCard]:
    """The cards of all sites; `InputError` for a card of another name, the same keys twice, or keys that were
    revoked."""
    cards: dict[str, PublicCard] = {}
    for name, path in paths.items():
        card = PublicCard.read(resolve_path(path, recipe_dir))
        where = SourceLocation(file=path, field=f"transport.member_cards.{name}")
        if card.name != name:
            raise InputError(f"is the card of {card.name!r}", where=where, hint="name the site as its card does")
        if any(len(gone) >= 12 and card.fingerprint.startswith(gone) for gone in revoked):
            raise InputError("has keys that were revoked", where=where, hint="ask the site for a new card")
        if any(card.fingerprint == other.fingerprint for other in cards.values()):
            raise InputError("has the keys of another site", where=where, hint="every site makes keys of its own")
        cards[name] = card
    return cards


def digest_cards(paths: Mapping[str, str], recipe_dir: Path) -> str:
    """A digest of the sites' names, keys and rows."""
    cards = read_member_cards(paths, recipe_dir)
    return digest_of([[name, card.model_dump(mode="json")] for name, card in cards.items()])


class EnvelopeTransport(Transport):
    """Base of transports to sites elsewhere, whose messages are signed, encrypted to their reader, and numbered."""

    keys: PathText = "coordinator"
    """The folder with the coordinator's own keys, made by `luthier site init --coordinator`."""
    member_cards: Annotated[dict[str, PathText], BasicMarker()] = Field(min_length=1)
    """The file of each site's public keys (its `card.json`), by the site's name."""
    revoked: tuple[str, ...] = ()
    """Fingerprints (12 characters or more) of keys that were stolen or withdrawn: no site may have one of them."""
    wait_s: float = Field(default=3600.0, gt=0)
    """Seconds that a round waits for answers. Later ones are not used."""

    @property
    def members(self) -> Mapping[str, str]:
        """The file of each site's public keys."""
        return self.member_cards

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """Names, keys and rows of the sites."""
        return digest_cards(self.member_cards, recipe_dir)
