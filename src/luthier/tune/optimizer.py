"""The role `optimizer`: how gradients become updates, what state that keeps, its memory, and the learning rate that
suits it.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

from pydantic import Field

from luthier.core.component import Component
from luthier.tune.technique import LearningRate

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Beta = Annotated[float, Field(ge=0, lt=1)]
Shapes = Mapping[str, Sequence[int]]
"""Shapes of the trainable weights, by parameter name."""
_OUTER = re.compile(r"embed|prompt|prefix|\bw[tp]e\b|lm_head|value_head|\bscore\b|classifier")
"""Names of parameters outside the decoder layers in transformers' and PEFT's models: embeddings, soft prompts and heads
(including a critic's)."""


class TrainableParameter(NamedTuple):
    """A trainable weight, in at least fp32."""

    name: str
    weight: Tensor
    factor: float
    """Factor on the learning rate."""


class Optimizer(Component):
    """The base class of optimizers."""

    role: ClassVar[str] = "optimizer"
    home: ClassVar[str] = "luthier.tune.optimizers"
    averages: ClassVar[bool] = False
    """Whether it keeps an average of the weights that is used in their place, so that the learning rate must not
    decay."""
    carried: ClassVar[tuple[str, ...]] = ()
    """Values of a parameter group that change from step to step."""

    @abstractmethod
    def begin(self, moving: Sequence[TrainableParameter]) -> list[torch.optim.Optimizer]:
        """Return torch optimizers over the weights; each parameter group has its `factor` on the learning rate."""

    @abstractmethod
    def state_bytes(self, shapes: Shapes) -> int:
        """Return the bytes of optimizer state for weights of these shapes."""

    def rate(self, technique: LearningRate) -> LearningRate:
        """Return the default learning rate, from the technique's own, which was found with AdamW."""
        return technique

    def kept(self, weight: Tensor, state: Mapping[str, Any]) -> Tensor:
        """Return the weight to use for evaluation and saving, from the weight at which gradients are taken."""
        return weight


def build_parameter_groups(moving: Sequence[TrainableParameter], weight_decay: float) -> list[dict[str, Any]]:
    """Return parameter groups by decay and factor; vectors (norms, biases, (IA)³ factors, which rest at 1) have no
    decay.
    """
    weights: dict[tuple[float, float], list[Tensor]] = defaultdict(list)
    for parameter in moving:
        decay = weight_decay if is_shrunk(parameter.name, parameter.weight.shape) else 0.0
        weights[decay, parameter.factor].append(parameter.weight)
    return [
        {"params": group_weights, "weight_decay": decay, "factor": factor}
        for (decay, factor), group_weights in weights.items()
    ]


def is_hidden_matrix(name: str, shape: Sequence[int]) -> bool:
    """Return whether a weight is a matrix inside a layer: not an embedding, output head, vector or stack of experts."""
    return len(shape) == 2 and not _is_vector(name, shape) and _OUTER.search(name) is None


def is_shrunk(name: str, shape: Sequence[int]) -> bool:
    """Return whether weight decay applies to a weight."""
    return not _is_vector(name, shape)


def _is_vector(name: str, shape: Sequence[int]) -> bool:
    """Return whether a parameter is a vector, including those that PEFT stores as a matrix with one row or column."""
    return len(shape) < 2 or ".ia3_l." in name
