"""Yogi: Adam whose average of squares grows and shrinks by steps of a bounded size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.param_space import ParamDistribution
from luthier.tune.optimizer import Beta, Optimizer, Shapes, TrainableParameter, build_parameter_groups

if TYPE_CHECKING:
    import torch


class Yogi(Optimizer):
    """Adam whose averaged square forgets slowly (Zaheer et al., 2018), so that a rare large gradient is not forgotten
    by the next small ones.

    As the server's optimizer of a federation it is FedYogi (Reddi et al., 2021), whose moments begin at zero and are
    not corrected for that.
    """

    kind: Literal["yogi"] = "yogi"

    betas: tuple[Beta, Beta] = (0.9, 0.99)
    """How much of the averaged gradient is kept at each step, and by how much of its square the averaged square moves
    (one minus the second)."""
    eps: float = Field(default=1e-3, gt=0)
    """Added to the root of the averaged square: how adaptive the steps are (tau in Reddi et al.)."""
    weight_decay: float = Field(default=0.0, ge=0)
    """How much weights shrink at each step, times the learning rate; norms and biases never do."""

    def begin(self, moving: Sequence[TrainableParameter]) -> list[torch.optim.Optimizer]:
        """Return Luthier's own implementation, since torch has none."""
        from luthier.tune.training.yogi import YogiOptimizer

        return [YogiOptimizer(build_parameter_groups(moving, self.weight_decay), betas=self.betas, eps=self.eps)]

    def state_bytes(self, shapes: Shapes) -> int:
        """Return two fp32 numbers for each weight."""
        return sum(8 * math.prod(shape) for shape in shapes.values())

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The adaptivity (`eps`) and the weight decay."""
        return {
            "eps": ParamDistribution(values=(1e-5, 1e-3, 1e-1)),
            "weight_decay": ParamDistribution(values=(0.0, 0.01, 0.1)),
        }
