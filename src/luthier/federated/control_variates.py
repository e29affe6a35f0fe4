"""Control variates (SCAFFOLD, Karimireddy et al., 2020): each site has its own mean gradient, and all share the global
mean.

A site's own variate stays at the site. Its change is sent with the weights and under the same masks. The shared variate
is always the mean of the sites' own, weighted by rows: so a site updates its own only when it learns that the change
was part of a sum. A late update leaves both unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from luthier.federated.aggregator import Aggregator
from luthier.federated.errors import MessageError
from luthier.federated.privacy import SITE, FederatedPrivacy
from luthier.federated.sites.state import SavedSiteState

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "control/"
"""Before the names of variates in a message."""
_OWN, _NEXT = "control/own/", "control/next/"
"""Before those in a site's state: what counts, and what the last round would change it to."""


def find_variate_obstacle(aggregator: Aggregator, privacy: FederatedPrivacy | None) -> str:
    """Return why control variates are impossible; empty when they are possible."""
    if not aggregator.linear:
        return f"control variates belong to weights that are averaged, and {aggregator.kind} begins anew in each round"
    if privacy is not None and privacy.unit == SITE:
        return "the promise to whole sites covers updates of weights alone; leave control_variates out"
    return ""


def add_variates(weights: Mapping[str, Tensor], variates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights and variates together, as they travel."""
    return {**weights, **{f"{PREFIX}{name}": value for name, value in variates.items()}}


def split_variates(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights, and the variates by parameter name."""
    weights = {name: value for name, value in tensors.items() if not name.startswith(PREFIX)}
    own = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    return weights, own


def move_shared(
    shared: Mapping[str, Tensor], mean_change: Mapping[str, Tensor], rows: float, all_rows: float
) -> dict[str, Tensor]:
    """The shared variate after a round, given the mean of the sites' changes weighed by their `rows`."""
    moved = dict(shared)
    for name, change in mean_change.items():
        value = moved[name].double() + change.double() * (rows / all_rows)
        moved[name] = value.to(moved[name].dtype)
    return moved


class SiteVariates:
    """The control variates of one site in one round."""

    def __init__(self, kept: SavedSiteState, counted: int, shared: Mapping[str, Tensor]) -> None:
        """`counted` is the last round (from 1) in which an update of this site was part of a sum; 0: none.
        `MessageError` for a round that this site did not train."""
        from luthier.tune.training.gradient_pull import ControlVariatePull

        if counted > kept.round:
            raise MessageError(f"the coordinator counts an update of round {counted}, which this site did not send")
        own, after = (_select(kept.tensors, prefix) for prefix in (_OWN, _NEXT))
        self._own: dict[str, Tensor] = {**own, **after} if kept.round and counted == kept.round else own
        self.pull = ControlVariatePull(self._own, shared)
        """Acts on the gradients of the round."""

    def find_changes(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the change of each weight's variate after the round."""
        after = self.pull.mean_gradients()
        found = {}
        for name, value in weights.items():
            own = self._own.get(name, value.new_zeros(value.shape))
            found[name] = after[name].to(own) - own if name in after else own.new_zeros(own.shape)
        return found

    def dump(self, changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the site's state: the current variate, and the one that applies once the changes are summed."""
        after = {name: self._own.get(name, change.new_zeros(change.shape)) + change for name, change in changes.items()}
        return {f"{_OWN}{name}": value for name, value in self._own.items()} | {
            f"{_NEXT}{name}": value for name, value in after.items()
        }


def _select(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
