"""TIES: trim small changes, elect a sign, and average the changes with that sign (Yadav et al., 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.models.merge import Merger, Sign, average_majority_sign

if TYPE_CHECKING:
    from torch import Tensor


class Ties(Merger):
    """Keep each model's largest changes, and where models pull a number in opposite ways follow the majority: for
    models that learnt different tasks. Largest within each weight matrix, as in PEFT and mergekit."""

    kind: Literal["ties"] = "ties"

    density: float = Field(default=0.2, gt=0, le=1)
    """Share of each weight's changes that is kept, the largest first. 0.2 is the paper's; 0.5 is usual for few
    models."""
    sign: Sign = "total"
    """Which sign wins: that of the sum of the changes (the paper's), or the one that most models have."""

    def combine(self, changes: Tensor, weights: Tensor, seed: int) -> Tensor:
        """Trim, elect a sign, and average the agreeing changes."""
        return average_majority_sign(trim_small_changes(changes, self.density), weights, self.sign)

    def share(self, number: int) -> float:
        """Return 1: agreeing changes are averaged."""
        return 1.0


def trim_small_changes(changes: Tensor, density: float) -> Tensor:
    """Return each model's changes with all but the largest set to zero."""
    import torch

    flat = changes.flatten(1)
    top = flat.abs().topk(int(density * flat.shape[1]), dim=1).indices
    return torch.zeros_like(flat).scatter(1, top, flat.gather(1, top)).view_as(changes)
