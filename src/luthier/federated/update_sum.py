"""The coordinator's sum: from the updates of a round, masked or not, to the weights that come of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.core.errors import DataError, InputError, SourceLocation
from luthier.core.step import StepContext
from luthier.federated.aggregator import AggregatedWeights, WeightSum, average_weights
from luthier.federated.control_variates import split_variates
from luthier.federated.dropout_masks import MaskContext
from luthier.federated.keys import KEY_FILE, FederationIdentity
from luthier.federated.masked_round import MaskedRound
from luthier.federated.masks import MASKED, MaskedSum, PairMasks, decode_sum
from luthier.federated.messages import (
    COMPARISONS,
    STAGES,
    FederationMessage,
    check_weights,
    digest_message,
    pack_tensors,
)
from luthier.federated.privacy import SITE, add_weights, average_clipped_updates, subtract_weights
from luthier.federated.refusals import MessageRefused
from luthier.federated.site import open_scratch
from luthier.federated.transport import SiteChannel
from luthier.tune.privacy.noise import NoiseKey

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.federated.steps.federate import Federate


REPLIES = "replies"
"""The folder of what was heard in a round."""


class RoundSum(NamedTuple):
    """What the updates of a round come to."""

    combined: AggregatedWeights
    rows: int | None
    """None where they are hidden."""
    loss: float | None
    variates: Mapping[str, Tensor] = {}  # a NamedTuple's default is never changed
    """The mean change of the sites' control variates."""


class UpdateSum:
    """Checks and sums the updates of a round, as a step `federate` says."""

    def __init__(self, step: Federate, work: StepContext) -> None:
        self._step, self._work, self._aggregator = step, work, step.sum

    @property
    def stages(self) -> int:
        """Messages of a round."""
        return 1 if self._step.secure is None or self._step.least is None else len(STAGES)

    def find_number(self, number: int) -> int:
        """The number of the first message of a round (from 1), or of the message after the last one."""
        return (0 if self._step.decontaminate is None else len(COMPARISONS)) + (number - 1) * self.stages + 1

    @property
    def _group_size(self) -> int:
        """Sites that mask their numbers towards each other."""
        return len(self._step.site_names)

    def list_groups(self, channel: SiteChannel) -> dict[str, list[str]]:
        """The fingerprints of the sites that each site masks its numbers together with, sorted; empty without masks."""
        if (masks := self._step.secure) is None:
            return {}
        groups = masks.deal(channel.sites)
        return {name: sorted(channel.cards[other].fingerprint for other in group) for group in groups for name in group}

    def open_masked_round(
        self,
        channel: SiteChannel,
        number: int,
        message: bytes,
        read: Callable[[str, bytes, type[Any]], FederationMessage],
    ) -> MaskedRound:
        """A round whose sites may drop out; what was heard in it before a kill is there. `read` reads a site's answer
        of a kind."""
        assert self._step.least is not None, "only then a round has stages"
        about = MaskContext(
            federation=self._work.digest,
            round=number,
            digest=digest_message(message),
            group=tuple(sorted(card.fingerprint for card in channel.cards.values())),
            least=self._step.least,
        )
        first = self.find_number(number)
        return MaskedRound(channel, about, first, self._work.scratch / REPLIES, read)

    def check(self, name: str, update: FederationMessage, expected: Mapping[str, Tensor]) -> None:
        """`MessageRefused` unless an update has what was agreed, masked or not."""
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
            raise MessageRefused(f"site {name} tells its rows and loss otherwise than was agreed")

    @property
    def sums_as_they_come(self) -> bool:
        """Whether a round's result is a plain mean, for which no site's update is held."""
        step = self._step
        plain = step.secure is None and step.robust is None and (step.privacy is None or step.privacy.unit != SITE)
        return plain and self._aggregator.linear and self._aggregator.exact

    def combine(
        self,
        updates: Mapping[str, FederationMessage],
        expected: Mapping[str, Tensor],
        given: Mapping[str, Tensor],
        total: WeightSum | None,
        unmask: Callable[[Any], Any] | None,
    ) -> RoundSum:
        """The sum of the updates, the rows behind it, their mean loss, and the mean change of control variates."""
        privacy = self._step.privacy
        sites = privacy is not None and privacy.unit == SITE
        if (masks := self._step.secure) is not None:
            sums = self._decode_groups(updates, masks.deal(list(updates)), expected, unmask)
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

    def _decode_groups(
        self,
        updates: Mapping[str, FederationMessage],
        groups: Sequence[Sequence[str]],
        expected: Mapping[str, Tensor],
        unmask: Callable[[Any], Any] | None,
    ) -> list[MaskedSum]:
        """The mean of each group; as many as are poisoned may be left out, since what was sent for them is none."""
        sums = []
        for group in groups:
            try:
                sums.append(self._decode(updates, group, expected, unmask))
            except InputError as error:
                if self._step.robust is None:
                    raise
                self._work.events.warning(f"the sum over {', '.join(group)} is left out: {error.message}")
        if self._step.robust is not None and len(groups) - len(sums) > self._step.robust.poisoned:
            what = f"the sums of {len(groups) - len(sums)} groups are none, and {self._step.robust.poisoned} may be"
            raise DataError(what, where=SourceLocation(field="robust"), hint="see the warnings for which ones")
        return sums

    def _decode(
        self,
        updates: Mapping[str, FederationMessage],
        group: Sequence[str],
        expected: Mapping[str, Tensor],
        unmask: Callable[[Any], Any] | None,
    ) -> MaskedSum:
        """The mean of the sites of one group."""
        import numpy

        assert self._step.secure is not None, "only masked numbers are decoded"
        numbers = [updates[name].tensors[MASKED].numpy().view(numpy.uint64) for name in group]
        total = numpy.zeros_like(numbers[0])
        for masked in numbers:
            total += masked  # modulo 2^64
        total = total if unmask is None else unmask(total)
        size = len(group) if unmask is None else self._group_size
        return decode_sum(total, expected, self._step.secure, size, self._step.site_noise)

    def _choose(self, parts: Sequence[Mapping[str, Tensor]], given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """One of the weights of sites or groups: the only one, or what a robust rule makes of all."""
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
    for name in sites:
        folder = open_scratch(work.scratch / "sites" / name / "keys")
        if not (folder / KEY_FILE).is_file():
            FederationIdentity.create("site").write(folder)
        identities[name] = FederationIdentity.read(folder)
    return {
        name: PairMasks(own, [other.card for peer, other in identities.items() if peer != name])
        for name, own in identities.items()
    }
