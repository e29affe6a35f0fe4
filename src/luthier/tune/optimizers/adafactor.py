"""Adafactor: AdamW's second moment from the averages of each row and column, and no first one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.param_space import ParamDistribution
from luthier.tune.optimizer import Optimizer, Shapes, TrainableParameter, build_parameter_groups
from luthier.tune.technique import LearningRate

if TYPE_CHECKING:
    import torch

SIZE = 0.08
"""What AdamW's rate is divided by: T5, 1,024 wide, was fine-tuned at a relative step of 0.001 (Raffel et al., 2020);
full fine-tuning with AdamW takes 8.4e-5 at that width. A model's matrices have about this size (root mean square);
SmolLM2-135M's have 0.05 to 0.4."""


class Adafactor(Optimizer):
    """Almost no memory: row and column averages instead of moments (Shazeer and Stern, 2018).

    The learning rate is the largest step relative to the weights' own size, not an absolute one, and never more than
    1 / √step.
    """

    kind: Literal["adafactor"] = "adafactor"

    decay: float = Field(default=-0.8, lt=0)
    """Exponent of the decay of the squared averages: at step t, 1 - t^decay of them is kept (Shazeer and Stern,
    2018)."""
    clip: float = Field(default=1.0, ge=1)
    """Largest root mean square of a tensor's update before the rate; larger ones are scaled down to it."""
    least_size: float = Field(default=SIZE, gt=0)
    """Weights smaller than this (root mean square) move as if they had this size. The paper's 0.001 lets an adapter
    that begins at zero stand almost still; 0.08 moves it as AdamW would."""
    weight_decay: float = Field(default=0.0, ge=0)
    """How much weights shrink at each step, times the learning rate; norms and biases never do."""

    def begin(self, moving: Sequence[TrainableParameter]) -> list[torch.optim.Optimizer]:
        """Return torch's Adafactor."""
        import torch

        return [
            torch.optim.Adafactor(
                build_parameter_groups(moving, self.weight_decay),
                beta2_decay=self.decay,
                d=self.clip,
                eps=(None, self.least_size),
            )
        ]

    def state_bytes(self, shapes: Shapes) -> int:
        """Return one fp32 number for each row and column, or for each element of a vector, and a count for
        each tensor.
        """
        return sum(4 * _averages(shape) + 4 for shape in shapes.values())

    def rate(self, technique: LearningRate) -> LearningRate:
        """Return AdamW's step over the usual size of weights."""
        why = f"{technique.why}; over {SIZE:g}, since Adafactor's steps are relative to the size of weights"
        return LearningRate(float(f"{technique.value / SIZE:.3g}"), why)

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The weight decay; the rest hardly matters in a short training."""
        return {"weight_decay": ParamDistribution(values=(0.0, 0.01, 0.1))}


def _averages(shape: Sequence[int]) -> int:
    """Return how many numbers represent the squares of a tensor."""
    if len(shape) < 2:
        return math.prod(shape)
    return math.prod(shape[:-2]) * (shape[-2] + shape[-1])
