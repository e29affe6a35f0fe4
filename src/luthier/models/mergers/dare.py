"""DARE: drop changes at random and scale up the rest (Yu et al., 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.models.merge import Merger, Sign, average_majority_sign, scale_changes

if TYPE_CHECKING:
    from torch import Tensor


class Dare(Merger):
    """Drop most changes of each model at random and scale up the rest, so that models disturb each other less."""

    kind: Literal["dare"] = "dare"

    drop: float = Field(default=0.5, ge=0, lt=1)
    """Share of the changes that is dropped, drawn by the recipe's seed. The paper drops 0.9 without loss in models of
    7 billion parameters and more, and finds that smaller ones bear less."""
    sign: Literal["all"] | Sign = "all"
    """`all`: the rest is added up as it is; `total` or `frequency`: only what agrees with the majority's sign is
    averaged, as in `ties`."""

    def combine(self, changes: Tensor, weights: Tensor, seed: int) -> Tensor:
        """Drop and rescale changes, then sum them or average those that agree in sign."""
        import torch

        chance = torch.rand(changes.shape, generator=torch.Generator().manual_seed(seed))
        left = torch.where(chance < self.drop, 0.0, changes / (1 - self.drop))
        if self.sign == "all":
            return scale_changes(left, weights).sum(dim=0)
        return average_majority_sign(left, weights, self.sign)

    def share(self, number: int) -> float:
        """Return the mean's weight, or 1 where agreeing changes are averaged."""
        return 1 / number if self.sign == "all" else 1.0
