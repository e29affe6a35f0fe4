"""A merger makes one change out of the changes that several tuned models made to the same base."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.core.component import Component

if TYPE_CHECKING:
    from torch import Tensor

Sign = Literal["total", "frequency"]


class Merger(Component):
    """How the changes of several tuned models become one."""

    role: ClassVar[str] = "merger"
    home: ClassVar[str] = "luthier.models.mergers"

    @abstractmethod
    def combine(self, changes: Tensor, weights: Tensor, seed: int) -> Tensor:
        """One weight's changes (models, …) in fp32, and the models' weights (models,), to the change that is kept (…).

        The same seed makes the same change.
        """

    @abstractmethod
    def share(self, number: int) -> float:
        """The weight of each of `number` models when none are given."""


def weighted(changes: Tensor, weights: Tensor) -> Tensor:
    """Each model's change times the model's weight."""
    return changes * weights.view(-1, *[1] * (changes.dim() - 1))


def agreed(changes: Tensor, weights: Tensor, sign: Sign) -> Tensor:
    """The mean of those weighted changes whose sign is the majority's, number by number.

    The second half of TIES (Yadav et al., 2023), as PEFT 0.21 computes it: signs are those of the changes before they
    are weighted. `total`: the sign of their sum; `frequency`: the sign that most have.
    """
    import torch

    signs = changes.sign()
    balance = changes.sum(dim=0) if sign == "total" else signs.sum(dim=0)
    kept = signs == torch.where(balance >= 0, 1, -1)
    return (weighted(changes, weights) * kept).sum(dim=0) / kept.sum(dim=0).clamp(min=1)
