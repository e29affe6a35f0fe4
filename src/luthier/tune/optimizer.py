"""An optimizer turns gradients into updates, and says what it remembers, what that costs and which rate suits it."""

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
"""Shapes of the weights that move, by parameter name."""
_OUTER = re.compile(r"embed|prompt|prefix|\bw[tp]e\b|lm_head|value_head|\bscore\b|classifier")
"""Names of what stands outside the layers, in transformers' and PEFT's models: embeddings, soft prompts, heads (also a
critic's)."""


class TrainableParameter(NamedTuple):
    """A weight that moves, in at least fp32."""

    name: str
    weight: Tensor
    factor: float
    """On the learning rate."""


class Optimizer(Component):
    """The base class of optimizers."""

    role: ClassVar[str] = "optimizer"
    home: ClassVar[str] = "luthier.tune.optimizers"
    averages: ClassVar[bool] = False
    """Whether the weights that count are an average that it keeps, so that the learning rate must not fall."""
    carried: ClassVar[tuple[str, ...]] = ()
    """Numbers of a parameter group that change from step to step."""

    @abstractmethod
    def begin(self, moving: Sequence[TrainableParameter]) -> list[torch.optim.Optimizer]:
        """Torch optimizers over the weights; each parameter group bears its `factor` on the learning rate."""

    @abstractmethod
    def state_bytes(self, shapes: Shapes) -> int:
        """Bytes of what it remembers about weights of these shapes from step to step."""

    def rate(self, technique: LearningRate) -> LearningRate:
        """The learning rate when none is given, from the technique's own, which was found with AdamW."""
        return technique

    def kept(self, weight: Tensor, state: Mapping[str, Any]) -> Tensor:
        """The weight that counts for answers and for the file, from the one that gradients are taken at."""
        return weight


def build_parameter_groups(moving: Sequence[TrainableParameter], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups by decay and factor; vectors (norms, biases, (IA)³ factors, which rest at 1) are not shrunk."""
    found: dict[tuple[float, float], list[Tensor]] = defaultdict(list)
    for parameter in moving:
        decay = weight_decay if is_shrunk(parameter.name, parameter.weight.shape) else 0.0
        found[decay, parameter.factor].append(parameter.weight)
    return [{"params": of, "weight_decay": decay, "factor": factor} for (decay, factor), of in found.items()]


def is_hidden_matrix(name: str, shape: Sequence[int]) -> bool:
    """Whether a weight is a matrix inside a layer: no embedding, no output head, no vector, no stack of experts."""
    return len(shape) == 2 and not _is_vector(name, shape) and _OUTER.search(name) is None


def is_shrunk(name: str, shape: Sequence[int]) -> bool:
    """Whether weight decay shrinks a weight."""
    return not _is_vector(name, shape)


def _is_vector(name: str, shape: Sequence[int]) -> bool:
    """Whether a parameter is a vector, also where PEFT writes it as a matrix of one row or column."""
    return len(shape) < 2 or ".ia3_l." in name
