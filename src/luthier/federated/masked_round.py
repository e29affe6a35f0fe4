"""The coordinator's end of a masked round that sites may drop out of: five messages, and then the sum.

What the sites answered to a message is sealed before the next one goes out, so that a coordinator that was killed sends
the same messages again: sites refuse any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError, SourceLocation
from luthier.core.files import write_atomically
from luthier.federated.dropout_masks import (
    MaskContext,
    MaskKeys,
    RevealedShares,
    unmask_sum,
    verify_keys,
    verify_survivors,
)
from luthier.federated.messages import (
    FederationMessage,
    KeyList,
    RoundKeys,
    ShareList,
    SharesRevealed,
    SharesSent,
    SurvivorList,
    SurvivorSignature,
    UnmaskRequest,
)
from luthier.federated.transport import SiteChannel

if TYPE_CHECKING:
    from numpy.typing import NDArray

DONE = "done"


class MaskedRound:
    """One round."""

    def __init__(
        self,
        channel: SiteChannel,
        about: MaskContext,
        first: int,
        folder: Path,
        read: Callable[[str, bytes, type[Any]], FederationMessage],
    ) -> None:
        """`first` is the number of the round's first message. `read` reads a site's answer of a kind."""
        self._channel, self._about, self._first, self._folder, self._read = channel, about, first, folder, read
        self._own = {name: card.fingerprint for name, card in channel.cards.items()}
        self._cards = {card.fingerprint: card for card in channel.cards.values()}
        self._names = {fingerprint: name for name, fingerprint in self._own.items()}
        self._keys: dict[str, MaskKeys] = {}
        self._senders: list[str] = []
        self._survivors: list[str] = []

    def gather(self, contents: Mapping[str, bytes]) -> dict[str, bytes]:
        """Have sites train, exchange keys and shares, and send masked numbers; returns the answers with those."""
        own, number = self._own, self._about.round
        answers = self._exchange(0, contents, "trained")
        self._keys = {own[name]: self._read(name, reply, RoundKeys).header.keys for name, reply in answers.items()}
        verify_keys(self._about, self._keys, self._cards)
        listed = FederationMessage(KeyList(round=number, keys=self._keys)).encode()
        answers = self._exchange(1, dict.fromkeys(answers, listed), "shared their secrets")
        shares = {own[name]: self._read(name, reply, SharesSent).header.shares for name, reply in answers.items()}
        self._senders = sorted(shares)
        requests = {self._names[reader]: self._list_shares(reader, shares) for reader in self._senders}
        answers = self._exchange(2, requests, "sent masked numbers")
        self._survivors = sorted(own[name] for name in answers)
        return answers

    def unmask(self, total: NDArray[Any]) -> NDArray[Any]:
        """The sum of what the sites that remain encoded, from the sum of their masked numbers."""
        own, number = self._own, self._about.round
        listed = FederationMessage(SurvivorList(round=number, survivors=self._survivors)).encode()
        sites = [self._names[fingerprint] for fingerprint in self._survivors]
        answers = self._exchange(3, dict.fromkeys(sites, listed), "signed who remains")
        signatures = {
            own[name]: self._read(name, reply, SurvivorSignature).header.signature for name, reply in answers.items()
        }
        verify_survivors(self._about, self._survivors, signatures, self._cards)
        requests = FederationMessage(UnmaskRequest(round=number, signatures=signatures)).encode()
        answers = self._exchange(4, dict.fromkeys(answers, requests), "gave their shares")
        revealed = RevealedShares()
        for name, reply in answers.items():
            given: SharesRevealed = self._read(name, reply, SharesRevealed).header
            for owner, share in given.seeds.items():
                revealed.seeds.setdefault(owner, {})[own[name]] = share
            for owner, share in given.masks.items():
                revealed.masks.setdefault(owner, {})[own[name]] = share
        return unmask_sum(total, self._about, self._keys, self._senders, self._survivors, revealed)

    def _list_shares(self, reader: str, shares: Mapping[str, Mapping[str, str]]) -> bytes:
        """The message with the shares for one site."""
        own = {sender: given[reader] for sender, given in shares.items() if reader in given}
        header = ShareList(round=self._about.round, shares=own, senders=self._senders)
        return FederationMessage(header).encode()

    def _exchange(self, stage: int, contents: Mapping[str, bytes], what: str) -> dict[str, bytes]:
        """The answers to a message, sealed; those that were sealed before a kill."""
        number = self._first + stage
        folder = self._folder / str(number)
        if (folder / DONE).is_file():
            names = (folder / DONE).read_text(encoding="utf-8").split("\n")
            return {name: (folder / name).read_bytes() for name in names}
        found = self._channel.exchange(number, contents)
        if len(found) < self._about.least:
            missing = ", ".join(sorted(contents.keys() - found.keys())) or "those that were lost before"
            raise DataError(
                f"{len(found)} sites {what} in round {self._about.round}, and at least {self._about.least} are needed; "
                f"missing: {missing}",
                where=SourceLocation(field="least"),
                hint="run again when they are there: what was answered is kept",
            )
        folder.mkdir(parents=True, exist_ok=True)
        for name, reply in found.items():
            write_atomically(folder / name, reply)
        write_atomically(folder / DONE, "\n".join(found).encode())
        return found
