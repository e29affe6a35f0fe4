"""The coordinator's sum: from the updates of a round, masked or not, to the weights that come of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.core.errors import DataError, InputError, SourceLocation
from luthier.core.step import StepContext
from luthier.federated.aggregator import AggregatedWeights, WeightSum, average_weights
from luthier.federated.control_variates import split_variates
from luthier.federated.errors import MessageError
from luthier.federated.messaging.keys import KEY_FILE, FederationIdentity
from luthier.federated.messaging.messages import (
    COMPARISONS,
    STAGES,
    FederationMessage,
    RoundUpdate,
    check_weights,
    digest_message,
    pack_tensors,
)
from luthier.federated.privacy import SITE, add_weights, average_clipped_updates, subtract_weights
from luthier.federated.secure_aggregation.dropout_masks import MaskContext, find_least
from luthier.federated.secure_aggregation.masked_round import MaskedGroup, MaskedRound
from luthier.federated.secure_aggregation.masks import MASKED, MaskedSum, MaskSettings, PairMasks, decode_sum
from luthier.federated.sites.worker import open_scratch
from luthier.federated.transport import SiteChannel
from luthier.tune.privacy.noise import NoiseKey

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.federated.steps.federate import Federate


REPLIES = "replies"
"""Folder of a round's received answers."""


class RoundSum(NamedTuple):
    """The summed updates of a round."""

    combined: AggregatedWeights
    rows: int | None
    """None where they are hidden."""
    loss: float | None
    variates: Mapping[str, Tensor] = {}  # a NamedTuple's default is never changed
    """The mean change of the sites' control variates."""


class UpdateSum:
    """Validates and sums the updates of a round, by the settings of a step `federate`."""

    def __init__(self, step: Federate, work: StepContext) -> None:
        self._step, self._work, self._aggregator = step, work, step.sum

    @property
    def stages(self) -> int:
        """Messages of a round."""
        return 1 if self._step.secure is None or self._step.least is None else len(STAGES)

    def find_number(self, number: int) -> int:
        """The number of the first message of a round (from 1), or of the message after the last one."""
        return (0 if self._step.decontaminate is None else len(COMPARISONS)) + (number - 1) * self.stages + 1

    def describe_groups(self, channel: SiteChannel) -> dict[str, dict[str, Any]]:
        """Return, for each site, the sites that it masks its numbers with: their fingerprints, sorted, and how many
        must remain; empty without masks.
        """
        if (masks := self._step.secure) is None:
            return {}
        found: dict[str, dict[str, Any]] = {}
        for group in masks.deal(channel.sites):
            prints = sorted(channel.cards[other].fingerprint for other in group)
            about = {"group": prints, "least": self._find_group_least(len(group))}
            found |= dict.fromkeys(group, about)
        return found

    def _find_group_least(self, size: int) -> int | None:
        """Return how many sites of a group must remain; None where all must answer."""
        if self._step.least is None or self._step.secure is None:
            return None
        return self._step.least if self._step.secure.groups is None else find_least(size)

    def open_masked_round(
        self,
        channel: SiteChannel,
        number: int,
        message: bytes,
        expected: Mapping[str, Tensor],
        read: Callable[[str, bytes, type[Any]], FederationMessage],
    ) -> MaskedRound:
        """Open a round that tolerates dropouts; answers received before a kill are reused. `read` parses a site's
        answer of a kind.
        """
        step, masks = self._step, self._step.secure
        assert step.least is not None, "only then a round has stages"
        assert masks is not None, "only masked rounds are opened"

        def read_checked(name: str, content: bytes, kind: type[Any]) -> FederationMessage:
            message = read(name, content, kind)
            if kind is RoundUpdate:
                self.check(name, message, expected)
            return message

        groups = []
        for names in masks.deal(channel.sites):
            cards = {name: channel.cards[name] for name in names}
            about = MaskContext(
                federation=self._work.digest,
                round=number,
                digest=digest_message(message),
                group=tuple(sorted(card.fingerprint for card in cards.values())),
                least=self._find_group_least(len(names)) or len(names),
            )
            groups.append(MaskedGroup(about, cards))
        first, folder = self.find_number(number), self._work.scratch / REPLIES
        fewest = 1 if step.robust is None else step.robust.count_needed()
        return MaskedRound(channel, groups, first, folder, read_checked, step.least, fewest, self._work.events.warning)

    def check(self, name: str, update: FederationMessage, expected: Mapping[str, Tensor]) -> None:
        """`MessageError` unless an update has what was agreed, masked or not."""
        import torch

        header = update.header
        if self._step.secure is not None:
            numbers = torch.zeros(sum(value.numel() for value in expected.values()) + 2, dtype=torch.int64)
            check_weights(update.tensors, {MASKED: numbers}, f"site {name}")
        else:
            check_weights(update.tensors, expected, f"site {name}")
        masked = self._step.secure is not None
        silent = masked or self._step.privacy is not None
        if (header.rows is None) != masked or (header.loss is None) != silent:
            raise MessageError(f"site {name} tells its rows and loss otherwise than was agreed")

    @property
    def sums_as_they_come(self) -> bool:
        """Whether a round's result is a plain mean, for which no site's update is kept in memory."""
        step = self._step
        plain = step.secure is None and step.robust is None and (step.privacy is None or step.privacy.unit != SITE)
        return plain and self._aggregator.linear and self._aggregator.exact

    def combine(
        self,
        updates: Mapping[str, FederationMessage],
        expected: Mapping[str, Tensor],
        given: Mapping[str, Tensor],
        total: WeightSum | None,
        masked_round: MaskedRound | None,
    ) -> RoundSum:
        """The sum of the updates, the rows behind it, their mean loss, and the mean change of control variates.
        `masked_round` is the one that gathered them, where sites may drop out."""
        privacy = self._step.privacy
        sites = privacy is not None and privacy.unit == SITE
        if (masks := self._step.secure) is not None:
            sums = self._decode_groups(self._add_groups(updates, masks, masked_round), expected)
            rows = None if sites else sum(found.rows for found in sums)
            loss = None
            if privacy is None:
                loss = sum(found.loss * found.rows for found in sums) / sum(found.rows for found in sums)
            split = [split_variates(found.weights) for found in sums]
            parts: list[Mapping[str, Tensor]] = [add_weights(found, given) if sites else found for found, _ in split]
            combined = self._aggregator.combine([self._choose(parts, given)], [1.0])
            return RoundSum(combined, rows, loss, split[0][1])
        row_counts = [update.header.rows for update in updates.values()]
        split = [split_variates(update.tensors) for update in updates.values()]
        weights = [found for found, _ in split]
        if sites:
            combined = self._aggregator.combine([self._add_site_noise(weights, given)], [1.0])
            return RoundSum(combined, sum(row_counts), None)
        shares = [count / sum(row_counts) for count in row_counts]
        mean = None
        if privacy is None:
            mean = sum(share * update.header.loss for share, update in zip(shares, updates.values(), strict=True))
        if self._step.robust is not None:
            combined = self._aggregator.combine([self._choose(weights, given)], [1.0])
            return RoundSum(combined, sum(row_counts), mean)
        if total is not None:
            whole, variates = split_variates(total.mean())
            return RoundSum(self._aggregator.combine([whole], [1.0]), sum(row_counts), mean, variates)
        variates = average_weights([found for _, found in split], shares)
        return RoundSum(self._aggregator.combine(weights, shares), sum(row_counts), mean, variates)

    def _add_groups(
        self, updates: Mapping[str, FederationMessage], masks: MaskSettings, masked_round: MaskedRound | None
    ) -> list[tuple[Sequence[str], int, Any]]:
        """The sites of each group, how many it was made for, and the sum of what they encoded (uint64)."""
        import numpy

        def add(group: Sequence[str]) -> Any:
            total: Any = 0
            for name in group:
                total = total + updates[name].tensors[MASKED].numpy().view(numpy.uint64)  # modulo 2^64
            return total

        if masked_round is None:
            return [(group, len(group), add(group)) for group in masks.deal(list(updates))]
        return [(group.survivors, group.size, total) for group, total in masked_round.unmask(add)]

    def _decode_groups(
        self, groups: Sequence[tuple[Sequence[str], int, Any]], expected: Mapping[str, Tensor]
    ) -> list[MaskedSum]:
        """The mean of each group; as many as are poisoned may be left out, since what was sent for them is none."""
        assert self._step.secure is not None, "only masked numbers are decoded"
        sums = []
        for names, size, total in groups:
            try:
                sums.append(decode_sum(total, expected, self._step.secure, size, self._step.site_noise))
            except InputError as error:
                if self._step.robust is None:
                    raise
                self._work.events.warning(f"the sum over {', '.join(names)} is left out: {error.message}")
        if self._step.robust is not None and len(groups) - len(sums) > self._step.robust.poisoned:
            what = f"the sums of {len(groups) - len(sums)} groups are none, and {self._step.robust.poisoned} may be"
            raise DataError(what, where=SourceLocation(field="robust"), hint="see the warnings for which ones")
        return sums

    def _choose(self, parts: Sequence[Mapping[str, Tensor]], given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Combine the weights of sites or groups: the only one, or the result of a robust rule."""
        import torch

        if (rule := self._step.robust) is None:
            return parts[0]
        if self._step.secure is None and (why := rule.check_count(len(parts))):
            raise DataError(why, where=SourceLocation(field="robust"), hint="wait for more sites, or bear fewer")
        names = sorted(parts[0])
        changes = torch.stack(
            [torch.cat([(part[name].double() - given[name].double()).flatten() for name in names]) for part in parts]
        )
        found, at = {}, 0
        combined = rule.combine(changes)
        for name in names:
            value = given[name]
            change = combined[at : at + value.numel()].reshape(value.shape)
            found[name] = (value.double() + change).to(value.dtype)
            at += value.numel()
        return found

    def _add_site_noise(
        self, updates: Sequence[Mapping[str, Tensor]], given: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The weights after the mean of the sites' clipped changes, with noise."""
        privacy = self._step.privacy
        assert privacy is not None, "sites are promised something"
        changes = (subtract_weights(update, given) for update in updates)
        label = digest_message(pack_tensors(given))
        key = NoiseKey.load(self._work.scratch)
        return add_weights(
            average_clipped_updates(changes, len(updates), privacy.clip, self._step.site_noise, key, label), given
        )


def build_local_masks(work: StepContext, sites: Sequence[str]) -> dict[str, PairMasks]:
    """Keys and masks of sites in this process, as sites elsewhere have them; they last as long as the federation."""
    identities = {}
    for at, name in enumerate(sites):
        folder = open_scratch(work.scratch / "sites" / name / "keys")
        if not (folder / KEY_FILE).is_file():
            FederationIdentity.create(f"site-{at}").write(folder)
        identities[name] = FederationIdentity.read(folder)
    return {
        name: PairMasks(own, [other.card for peer, other in identities.items() if peer != name])
        for name, own in identities.items()
    }
