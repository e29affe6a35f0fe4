"""The coordinator's part in decontamination: it relays the sites' encrypted messages, and learns only sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError, SourceLocation
from luthier.core.files import write_atomically
from luthier.federated.decontamination.settings import LATER_BANDS, DecontaminationSettings
from luthier.federated.errors import MessageError
from luthier.federated.messaging.messages import (
    COMPARISONS,
    BlindedRows,
    ComparisonRequest,
    EvaluatedRows,
    FederationMessage,
    LeaveOutRequest,
    LeaveOutResponse,
)
from luthier.federated.transport import SiteChannel

FIRST = 1
"""The number of the first of the messages `COMPARISONS`; the order is 0."""
DONE = "done"
_BYTES = 64
"""Maximum bytes of an element: a point, or a point and a tag, with the encryption's overhead."""


class DecontaminationExchange:
    """Has the sites of a federation leave out rows, before its first round."""

    def __init__(
        self,
        channel: SiteChannel,
        settings: DecontaminationSettings,
        folder: Path,
        read: Callable[[str, bytes, type[Any]], FederationMessage],
    ) -> None:
        """Prepare the exchange; answers are stored encrypted in `folder`, since sites answer each message once. `read`
        parses an answer.
        """
        self._channel, self._folder, self._read = channel, folder, read
        self._names = {card.fingerprint: name for name, card in channel.cards.items()}
        channel.expect_bytes(len(channel.sites) * (settings.max_rows * LATER_BANDS.number + 1024) * 2 * _BYTES)

    def run(self) -> dict[str, int | None]:
        """The messages in their order; returns by site how many rows were left out, None where it does not tell."""
        sites = self._channel.sites
        carried: dict[str, dict[str, Any]] = {name: {} for name in sites}
        for number, asks in enumerate(COMPARISONS[:-1], FIRST):
            kind = EvaluatedRows if asks is ComparisonRequest else BlindedRows
            carried = self._deal(self._exchange(number, self._encode(asks, carried), kind))
        last = self._exchange(len(COMPARISONS), self._encode(LeaveOutRequest, carried), LeaveOutResponse)
        return {name: message.header.left_out for name, message in last.items()}

    @staticmethod
    def _encode(asks: type[Any], carried: Mapping[str, dict[str, Any]]) -> dict[str, bytes]:
        """For each site, a message of a kind with what the others wrote to it."""
        return {name: FederationMessage(asks(), envelopes).encode() for name, envelopes in carried.items()}

    def _deal(self, messages: Mapping[str, FederationMessage]) -> dict[str, dict[str, Any]]:
        """For each site, what the others wrote to it, by their fingerprints."""
        found: dict[str, dict[str, Any]] = {name: {} for name in messages}
        own = {name: fingerprint for fingerprint, name in self._names.items()}
        for sender, message in messages.items():
            if message.tensors.keys() != {own[name] for name in messages if name != sender}:
                raise MessageError(f"site {sender} does not write to each of the other sites")
            for reader, envelope in message.tensors.items():
                found[self._names[reader]][own[sender]] = envelope
        return found

    def _exchange(self, number: int, contents: Mapping[str, bytes], kind: type[Any]) -> dict[str, FederationMessage]:
        """The answers of all sites to a message, sealed; those that were sealed before a kill."""
        folder = self._folder / str(number)
        if not (folder / DONE).is_file():
            found = self._channel.exchange(number, contents)
            if missing := sorted(contents.keys() - found.keys()):
                raise DataError(
                    f"{len(found)} of {len(contents)} sites compared rows; missing: {', '.join(missing)}",
                    where=SourceLocation(field="decontaminate"),
                    hint="run again when they are there: a site that is not compared could be trained on",
                )
            messages = {name: self._read(name, found[name], kind) for name in contents}
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in found.items():
                write_atomically(folder / name, content)
            write_atomically(folder / DONE, b"")
            return messages
        return {name: self._read(name, (folder / name).read_bytes(), kind) for name in contents}
