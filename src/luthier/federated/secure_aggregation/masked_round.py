"""The coordinator's end of a masked round that sites may drop out of: five messages, and then the sum.

What the sites answered to a message is sealed before the next one goes out, so that a coordinator that was killed sends
the same messages again: sites refuse any other. With groups, each group has a round of its own, and all groups get
their messages together: one that too few sites remain of, or in which a site sends what it should not, is left out
alone, and a robust rule chooses among the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from luthier.core.errors import DataError, LuthierError, SourceLocation
from luthier.core.files import write_atomically
from luthier.federated.errors import MessageError
from luthier.federated.messaging.keys import PublicCard
from luthier.federated.messaging.messages import (
    FederationMessage,
    KeyList,
    RoundKeys,
    RoundUpdate,
    ShareList,
    SharesRevealed,
    SharesSent,
    SurvivorList,
    SurvivorSignature,
    UnmaskRequest,
)
from luthier.federated.secure_aggregation.dropout_masks import (
    MaskContext,
    MaskKeys,
    RevealedShares,
    unmask_sum,
    verify_keys,
    verify_survivors,
)
from luthier.federated.transport import SiteChannel

if TYPE_CHECKING:
    from numpy.typing import NDArray

DONE = "done"


class MaskedGroup:
    """Sites that mask their numbers against each other in a round, and their messages so far."""

    def __init__(self, about: MaskContext, cards: Mapping[str, PublicCard]) -> None:
        """`cards` by the sites' names."""
        self.about, self.size = about, len(cards)
        self.names = {card.fingerprint: name for name, card in cards.items()}
        self._cards = {card.fingerprint: card for card in cards.values()}
        self._keys: dict[str, MaskKeys] = {}
        self._senders: list[str] = []
        self._survivors: list[str] = []
        self._revealed = RevealedShares()

    @property
    def survivors(self) -> list[str]:
        """Names of the sites whose masked numbers came."""
        return [name for fingerprint, name in self.names.items() if fingerprint in self._survivors]

    def take_keys(self, answers: Mapping[str, Any]) -> dict[str, bytes]:
        """From each site's keys, the next message to it; so in all stages. Answers are headers, by fingerprint."""
        self._keys = {site: answer.keys for site, answer in answers.items()}
        verify_keys(self.about, self._keys, self._cards)
        return self._address(answers, KeyList(round=self.about.round, keys=self._keys))

    def take_shares(self, answers: Mapping[str, Any]) -> dict[str, bytes]:
        """The shares that each site is to keep for the others."""
        self._senders = sorted(answers)
        found: dict[str, bytes] = {}
        for reader in self._senders:
            own = {sender: answer.shares[reader] for sender, answer in answers.items() if reader in answer.shares}
            found |= self._address([reader], ShareList(round=self.about.round, shares=own, senders=self._senders))
        return found

    def take_numbers(self, answers: Mapping[str, Any]) -> dict[str, bytes]:
        """The list of the sites that remain."""
        self._survivors = sorted(answers)
        return self._address(answers, SurvivorList(round=self.about.round, survivors=self._survivors))

    def take_signatures(self, answers: Mapping[str, Any]) -> dict[str, bytes]:
        """The signatures of that list."""
        signatures = {site: answer.signature for site, answer in answers.items()}
        verify_survivors(self.about, self._survivors, signatures, self._cards)
        return self._address(answers, UnmaskRequest(round=self.about.round, signatures=signatures))

    def take_revealed(self, answers: Mapping[str, Any]) -> dict[str, bytes]:
        """The shares that unmask the sum; nothing more is sent."""
        for site, answer in answers.items():
            for owner, share in answer.seeds.items():
                self._revealed.seeds.setdefault(owner, {})[site] = share
            for owner, share in answer.masks.items():
                self._revealed.masks.setdefault(owner, {})[site] = share
        return {}

    def unmask(self, total: NDArray[Any]) -> NDArray[Any]:
        """The sum of what the sites that remain encoded, from the sum of their masked numbers."""
        return unmask_sum(total, self.about, self._keys, self._senders, self._survivors, self._revealed)

    def _address(self, sites: Mapping[str, Any] | Sequence[str], header: BaseModel) -> dict[str, bytes]:
        return dict.fromkeys((self.names[site] for site in sites), FederationMessage(header).encode())


class MaskedRound:
    """One masked round of all groups."""

    def __init__(
        self,
        channel: SiteChannel,
        groups: Sequence[MaskedGroup],
        first: int,
        folder: Path,
        read: Callable[[str, bytes, type[Any]], FederationMessage],
        least: int,
        fewest: int = 1,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Prepare a round.

        `first` is the number of its first message, and `folder` stores the answers. `read` parses a site's answer of a
        kind. `least` sites must remain, in `fewest` groups; where a group is left out, `warn` is called.
        """
        self._channel, self._first, self._folder, self._read = channel, first, folder, read
        self._least, self._fewest, self._warn = least, fewest, warn
        self._alone = len(groups) == 1
        self._number = groups[0].about.round
        self._next: dict[str, bytes] = {}
        self.groups = list(groups)
        """Those that remain."""

    def list_sites(self, sites: Sequence[str]) -> list[str]:
        """Return those of some sites that are in remaining groups."""
        left = {name for group in self.groups for name in group.names.values()}
        return [name for name in sites if name in left]

    def list_survivors(self) -> set[str]:
        """The sites that are part of the sums."""
        return {name for group in self.groups for name in group.survivors}

    def gather(self, contents: Mapping[str, bytes]) -> dict[str, bytes]:
        """Have sites train, exchange keys and shares, and send masked numbers; returns the answers with those."""
        answers = self._exchange(0, contents, "trained")
        listed = self._advance(answers, RoundKeys, MaskedGroup.take_keys)
        answers = self._exchange(1, listed, "shared their secrets")
        requests = self._advance(answers, SharesSent, MaskedGroup.take_shares)
        answers = self._exchange(2, requests, "sent masked numbers")
        self._next = self._advance(answers, RoundUpdate, MaskedGroup.take_numbers)
        return {name: answers[name] for name in answers if name in self._next}

    def unmask(self, add: Callable[[Sequence[str]], NDArray[Any]]) -> list[tuple[MaskedGroup, NDArray[Any]]]:
        """Return for each remaining group the sum of its remaining sites' encoded numbers; `add` adds up the masked
        numbers of sites.
        """
        answers = self._exchange(3, self._next, "signed who remains")
        requests = self._advance(answers, SurvivorSignature, MaskedGroup.take_signatures)
        answers = self._exchange(4, requests, "gave their shares")
        self._advance(answers, SharesRevealed, MaskedGroup.take_revealed)
        sums = {}

        def take_sum(group: MaskedGroup) -> None:
            sums[group.about.group] = group.unmask(add(group.survivors))

        self._try_groups(take_sum)
        return [(group, sums[group.about.group]) for group in self.groups]

    def _advance(
        self,
        answers: Mapping[str, bytes],
        kind: type[BaseModel],
        take: Callable[[MaskedGroup, Mapping[str, Any]], dict[str, bytes]],
    ) -> dict[str, bytes]:
        """Read the answers group by group; returns the next messages, by site."""
        contents: dict[str, bytes] = {}

        def step(group: MaskedGroup) -> None:
            headers = {}
            for fingerprint, name in group.names.items():
                if name in answers and (header := self._read_header(group, name, answers[name], kind)) is not None:
                    headers[fingerprint] = header
            if len(headers) < group.about.least:
                raise MessageError(f"{len(headers)} sites remain of it, and {group.about.least} are needed")
            contents.update(take(group, headers))

        self._try_groups(step)
        return contents

    def _read_header(self, group: MaskedGroup, name: str, reply: bytes, kind: type[BaseModel]) -> Any:
        """Return a site's header; None where its message makes the group fail, which one of several groups may."""
        try:
            header = self._read(name, reply, kind).header
            if kind is RoundUpdate and (header.round, header.answers) != (group.about.round, group.about.digest):
                raise MessageError(f"site {name} sends numbers of another round")
        except LuthierError as error:
            if self._alone:
                raise
            self._warn(f"site {name} counts as lost in round {self._number}: {error.message}")
            return None
        return header

    def _try_groups(self, step: Callable[[MaskedGroup], None]) -> None:
        """Do something for each group; one where it fails is left out, if enough others remain."""
        left = []
        for group in self.groups:
            try:
                step(group)
                left.append(group)
            except LuthierError as error:
                if self._alone:
                    raise
                self._leave_out(group, error.message)
        self.groups = left
        self._require(len(left), sum(len(group.survivors or group.names) for group in left), "answered as they should")

    def _leave_out(self, group: MaskedGroup, why: str) -> None:
        names = ", ".join(group.names.values())
        self._warn(f"the group of {names} is left out of round {self._number}: {why}")

    def _require(self, groups: int, sites: int, what: str, missing: str = "") -> None:
        """`DataError` where too few sites or groups remain."""
        if groups >= self._fewest and sites >= self._least:
            return
        found, needed = f"{sites} sites {what}", f"at least {self._least} are needed"
        if not self._alone:
            found = f"{sites} sites in {groups} groups that remain {what}"
            needed = f"at least {self._least} in {self._fewest} groups are needed"
        text = f"; missing: {missing}" if missing else "; see the warnings for which groups were left out"
        raise DataError(
            f"{found} in round {self._number}, and {needed}{text}",
            where=SourceLocation(field="least"),
            hint="run again when they are there: what was answered is kept",
        )

    def _exchange(self, stage: int, contents: Mapping[str, bytes], what: str) -> dict[str, bytes]:
        """The answers to a message from groups with enough of them, sealed; those that were sealed before a kill."""
        number = self._first + stage
        folder = self._folder / str(number)
        done = (folder / DONE).is_file()
        if done:
            names = (folder / DONE).read_text(encoding="utf-8").split("\n")
            found = {name: (folder / name).read_bytes() for name in names}
        else:
            found = self._channel.exchange(number, contents)
        counts = [sum(name in found for name in group.names.values()) for group in self.groups]
        left = [group for group, count in zip(self.groups, counts, strict=True) if count >= group.about.least]
        sites = len(found)
        if not self._alone:  # each group needs enough answers, and all groups enough numbers
            sites = sum(len(group.survivors) or sum(name in found for name in group.names.values()) for group in left)
        missing = ", ".join(sorted(contents.keys() - found.keys())) or "those that were lost before"
        self._require(len(left), sites, what, missing)
        if not done:
            folder.mkdir(parents=True, exist_ok=True)
            for name, reply in found.items():
                write_atomically(folder / name, reply)
            write_atomically(folder / DONE, "\n".join(found).encode())
        for group, count in zip(self.groups, counts, strict=True):
            if group not in left:
                self._leave_out(group, f"{count} of its sites {what}, and at least {group.about.least} are needed")
        self.groups = left
        return found
