"""What is added to the gradient of each step beside the loss: terms that hold a site of a federation near the others.

A pull sees the gradient after clipping, so that its own length is not clipped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor


class GradientPull(ABC):
    """Changes the gradient of each parameter before the optimizer moves it."""

    @abstractmethod
    def start(self, masters: Mapping[str, Tensor]) -> None:
        """Begin with these weights, by parameter name; called once, before the first step."""

    @abstractmethod
    def add_to(self, gradient: Tensor, name: str, master: Tensor, rate: float) -> None:
        """Add to the gradient of a parameter, in place; `rate` is the learning rate of the step."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs beside what `start` was given."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""


class ProximalPull(GradientPull):
    """Draws each step back to where the training began, by so much of the way gone (FedProx, Li et al., 2020)."""

    def __init__(self, strength: float) -> None:
        self._strength = strength
        self._anchors: dict[str, Tensor] = {}

    def start(self, masters: Mapping[str, Tensor]) -> None:
        """Remember where the training begins."""
        self._anchors = {name: master.detach().clone() for name, master in masters.items()}

    def add_to(self, gradient: Tensor, name: str, master: Tensor, rate: float) -> None:
        """Add the way from the beginning, times the strength."""
        gradient.add_(master.detach() - self._anchors[name], alpha=self._strength)

    def state(self) -> dict[str, Tensor]:
        """Nothing: the beginning is given again."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Nothing is to be restored."""


_TOTAL, _RATES = "total/", "rates/"


class ControlVariatePull(GradientPull):
    """Replaces what is usual in this site's gradients by what is usual in those of all sites (SCAFFOLD, Karimireddy et
    al., 2020): `shared - own` is added to each gradient.

    The site's next control variate is the mean of its gradients in this training, weighed by the learning rate. For
    plain SGD that is Option II of the paper, `own - shared + (x - y) / sum of rates`; unlike that, it is a gradient
    under every optimizer.
    """

    def __init__(self, own: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> None:
        """Control variates of this site and of all, by parameter name; zero where a name is missing from `own`."""
        self._own, self._shared = own, shared
        self._changes: dict[str, Tensor] = {}
        self._totals: dict[str, Tensor] = {}
        self._rates: dict[str, float] = {}

    def start(self, masters: Mapping[str, Tensor]) -> None:
        """Begin with sums of zero; a parameter without a shared variate, which stays at its site, is left alone."""
        for name, master in masters.items():
            if name not in self._shared:
                continue
            own = self._own.get(name)
            shared = self._shared[name].to(master)
            self._changes[name] = shared if own is None else shared - own.to(master)
            self._totals[name] = torch.zeros_like(master)
            self._rates[name] = 0.0

    def add_to(self, gradient: Tensor, name: str, master: Tensor, rate: float) -> None:
        """Count the gradient, and add the difference of the control variates."""
        if name not in self._changes:
            return
        self._totals[name].add_(gradient, alpha=rate)
        self._rates[name] += rate
        gradient.add_(self._changes[name])

    def mean_gradients(self) -> dict[str, Tensor]:
        """The site's next control variate, by the name of each parameter that took a step."""
        return {
            name: (total / self._rates[name]).detach().cpu()
            for name, total in self._totals.items()
            if self._rates[name] > 0.0
        }

    def state(self) -> dict[str, Tensor]:
        """The sums."""
        rates = {name: torch.tensor(rate, dtype=torch.float64) for name, rate in self._rates.items()}
        return {f"{_TOTAL}{name}": value for name, value in self._totals.items()} | {
            f"{_RATES}{name}": value for name, value in rates.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up the sums."""
        for name, total in self._totals.items():
            total.copy_(state[f"{_TOTAL}{name}"])
            self._rates[name] = float(state[f"{_RATES}{name}"])
