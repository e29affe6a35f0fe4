"""Schedule-free AdamW: an average of the weights in place of a falling learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.core.param_space import ParamDistribution
from luthier.tune.optimizer import Beta, Optimizer, Shapes, TrainableParameter, build_parameter_groups

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class ScheduleFree(Optimizer):
    """AdamW that need not know when it ends: what counts is an average of all weights so far (Defazio et al., 2024).

    Gradients are taken between the newest weights and their average; held-out scores and the saved model are the
    average's. The learning rate stays constant after the warm-up, so that a run can be stopped at any step.
    """

    kind: Literal["schedule_free"] = "schedule_free"
    averages: ClassVar[bool] = True
    carried: ClassVar[tuple[str, ...]] = ("k", "weight_sum", "lr_max")

    betas: tuple[Annotated[float, Field(gt=0, lt=1)], Beta] = (0.9, 0.999)
    """How near to the average gradients are taken (0.9; 0.95 to 0.98 for very long runs), and how much of the averaged
    square is kept at each step."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the averaged square, so that weights without gradients stand still."""
    weight_decay: float = Field(default=0.0, ge=0)
    """How much weights shrink at each step, times the learning rate; norms and biases never do."""
    power: float = Field(default=0.0, ge=0)
    """Weight of a step in the average: its number to this power. 0 weighs all alike; more forgets the first ones."""

    def begin(self, moving: Sequence[TrainableParameter]) -> list[torch.optim.Optimizer]:
        """Return the authors' implementation."""
        from schedulefree import AdamWScheduleFree

        optimizer = AdamWScheduleFree(
            build_parameter_groups(moving, self.weight_decay),
            betas=self.betas,
            eps=self.eps,
            r=self.power,
            foreach=False,
        )
        optimizer.train()
        return [optimizer]

    def state_bytes(self, shapes: Shapes) -> int:
        """Return the newest weight and the averaged square, in fp32."""
        return sum(8 * math.prod(shape) for shape in shapes.values())

    def kept(self, weight: Tensor, state: Mapping[str, Any]) -> Tensor:
        """Return the average x, from y = beta x + (1 - beta) z."""
        return weight.lerp(state["z"], 1 - 1 / self.betas[0]) if "z" in state else weight

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The interpolation towards the average, and the weight decay."""
        betas = ParamDistribution(values=((0.9, 0.999), (0.95, 0.999), (0.98, 0.999)))
        return {"betas": betas, "weight_decay": ParamDistribution(values=(0.0, 0.01, 0.1))}
