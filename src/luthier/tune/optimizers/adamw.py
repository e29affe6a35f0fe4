"""AdamW: the step of each weight is its averaged gradient over the root of its averaged square."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.param_space import ParamDistribution
from luthier.tune.optimizer import Beta, Optimizer, Shapes, TrainableParameter, build_parameter_groups

if TYPE_CHECKING:
    import torch


class AdamW(Optimizer):
    """Two moments for each weight (Loshchilov and Hutter, 2019): what nearly all published fine-tuning used."""

    kind: Literal["adamw"] = "adamw"

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """How much of the averages of the gradient and of its square is kept at each step; 0.95 for the second where
    gradients change fast, as in pre-training."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the averaged square, so that weights without gradients stand still."""
    weight_decay: float = Field(default=0.0, ge=0)
    """How much weights shrink at each step, times the learning rate; norms and biases never do. 0 for adapters and
    short runs; 0.01 to 0.1 where many epochs overfit."""

    def begin(self, moving: Sequence[TrainableParameter]) -> list[torch.optim.Optimizer]:
        """Return torch's fused AdamW."""
        import torch

        return [
            torch.optim.AdamW(
                build_parameter_groups(moving, self.weight_decay), betas=self.betas, eps=self.eps, fused=True
            )
        ]

    def state_bytes(self, shapes: Shapes) -> int:
        """Return two fp32 numbers for each weight, and a count of steps for each tensor."""
        return sum(8 * math.prod(shape) + 4 for shape in shapes.values())

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The weight decay; the rest hardly matters in a short training."""
        return {"weight_decay": ParamDistribution(values=(0.0, 0.01, 0.1))}
