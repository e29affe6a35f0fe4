"""SGD with momentum: the averaged gradient, with the same rate for all weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.param_space import ParamDistribution
from luthier.tune.optimizer import Beta, Optimizer, Shapes, TrainableParameter, build_parameter_groups
from luthier.tune.technique import LearningRate

if TYPE_CHECKING:
    import torch

OF_ADAM = 100.0
"""Ratio of the usual learning rate to AdamW's: a step of AdamW has about the size of the rate whatever the gradient,
and gradients are some hundredths."""


class Sgd(Optimizer):
    """Stochastic gradient descent with momentum: little memory, and the rate must suit the gradients' own size.

    As the server's optimizer of a federation it is FedAvgM (Hsu et al., 2019).
    """

    kind: Literal["sgd"] = "sgd"

    momentum: Beta = 0.9
    """How much of the sum of earlier gradients is kept at each step; 0: none is."""
    nesterov: bool = False
    """Look one step ahead along the momentum."""
    weight_decay: float = Field(default=0.0, ge=0)
    """How much weights shrink at each step, times the learning rate; norms and biases never do."""

    def begin(self, moving: Sequence[TrainableParameter]) -> list[torch.optim.Optimizer]:
        """Return torch's SGD."""
        import torch

        groups = build_parameter_groups(moving, self.weight_decay)
        nesterov = self.nesterov and self.momentum > 0
        return [torch.optim.SGD(groups, lr=1.0, momentum=self.momentum, nesterov=nesterov, foreach=False)]

    def state_bytes(self, shapes: Shapes) -> int:
        """Return the momentum, one fp32 number for each weight."""
        return sum(4 * math.prod(shape) for shape in shapes.values()) if self.momentum else 0

    def rate(self, technique: LearningRate) -> LearningRate:
        """Return a hundred times AdamW's rate, at most 0.5."""
        return LearningRate(min(0.5, OF_ADAM * technique.value), f"{technique.why}; times {OF_ADAM:g} for sgd")

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The momentum and the weight decay."""
        return {
            "momentum": ParamDistribution(values=(0.0, 0.9, 0.95)),
            "weight_decay": ParamDistribution(values=(0.0, 0.01, 0.1)),
        }
