"""Terms added to the gradient of each step besides the loss, which keep a federated site's weights near the others'.

A pull is added after clipping, so its own length is not clipped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor


class GradientPull(ABC):
    """Changes the gradient of each parameter before the optimizer's update."""

    @abstractmethod
    def start(self, masters: Mapping[str, Tensor]) -> None:
        """Set the initial weights, by parameter name; called once, before the first step."""

    @abstractmethod
    def add_to(self, gradient: Tensor, name: str, master: Tensor, rate: float) -> None:
        """Add to the gradient of a parameter, in place; `rate` is the learning rate of the step."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs besides the arguments of `start`."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state."""


class ProximalPull(GradientPull):
    """Pulls each step back to the initial weights, in proportion to the distance (FedProx, Li et al., 2020)."""

    def __init__(self, strength: float) -> None:
        self._strength = strength
        self._anchors: dict[str, Tensor] = {}

    def start(self, masters: Mapping[str, Tensor]) -> None:
        """Store the initial weights."""
        self._anchors = {name: master.detach().clone() for name, master in masters.items()}

    def add_to(self, gradient: Tensor, name: str, master: Tensor, rate: float) -> None:
        """Add the distance from the initial weights, times the strength."""
        gradient.add_(master.detach() - self._anchors[name], alpha=self._strength)

    def state(self) -> dict[str, Tensor]:
        """Return nothing: the initial weights are given again."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """There is nothing to restore."""


_TOTAL, _RATES = "total/", "rates/"


class ControlVariatePull(GradientPull):
    """Corrects this site's gradients by control variates (SCAFFOLD, Karimireddy et al., 2020): `shared - own` is added
    to each gradient.

    The site's next control variate is the mean of its gradients in this training, weighted by the learning rate. For
    plain SGD that is Option II of the paper, `own - shared + (x - y) / sum of rates`; unlike that, it is a gradient
    under every optimizer.
    """

    def __init__(self, own: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> None:
        """Set the control variates of this site and of all, by parameter name; zero where a name is missing
        from `own`.
        """
        self._own, self._shared = own, shared
        self._changes: dict[str, Tensor] = {}
        self._totals: dict[str, Tensor] = {}
        self._rates: dict[str, float] = {}

    def start(self, masters: Mapping[str, Tensor]) -> None:
        """Start with sums of zero; a parameter without a shared variate stays at its site and is not changed."""
        for name, master in masters.items():
            if name not in self._shared:
                continue
            own = self._own.get(name)
            shared = self._shared[name].to(master)
            self._changes[name] = shared if own is None else shared - own.to(master)
            self._totals[name] = torch.zeros_like(master)
            self._rates[name] = 0.0

    def add_to(self, gradient: Tensor, name: str, master: Tensor, rate: float) -> None:
        """Accumulate the gradient, and add the difference of the control variates."""
        if name not in self._changes:
            return
        self._totals[name].add_(gradient, alpha=rate)
        self._rates[name] += rate
        gradient.add_(self._changes[name])

    def mean_gradients(self) -> dict[str, Tensor]:
        """Return the site's next control variate, by the name of each updated parameter."""
        return {
            name: (total / self._rates[name]).detach().cpu()
            for name, total in self._totals.items()
            if self._rates[name] > 0.0
        }

    def state(self) -> dict[str, Tensor]:
        """Return the sums."""
        rates = {name: torch.tensor(rate, dtype=torch.float64) for name, rate in self._rates.items()}
        return {f"{_TOTAL}{name}": value for name, value in self._totals.items()} | {
            f"{_RATES}{name}": value for name, value in rates.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore the sums."""
        for name, total in self._totals.items():
            total.copy_(state[f"{_TOTAL}{name}"])
            self._rates[name] = float(state[f"{_RATES}{name}"])
