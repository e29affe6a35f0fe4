"""Muon: updates of matrices with all directions of equal length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.param_space import ParamDistribution
from luthier.tune.optimizer import Beta, Optimizer, Shapes, TrainableParameter, build_parameter_groups, is_hidden_matrix
from luthier.tune.optimizers.adamw import AdamW
from luthier.tune.technique import LearningRate

if TYPE_CHECKING:
    import torch


class Muon(Optimizer):
    """One moment for matrices, whose update is made orthogonal (Jordan, 2024); AdamW for everything else.

    Matrices inside the layers get Muon; embeddings, output heads, soft prompts, norms, biases, vectors and stacks of
    experts get AdamW. LoRA's A and B are matrices too: each is made orthogonal by itself, so that all its r directions
    move alike, which is not the same as an orthogonal update of their product. Its strength is full fine-tuning and
    training from scratch; for a model that was trained with AdamW the gain is small (Liu et al., 2025, section 3.5).
    """

    kind: Literal["muon"] = "muon"

    momentum: float = Field(default=0.95, ge=0, lt=1)
    """How much of the averaged gradient of a matrix is kept at each step (Jordan, 2024)."""
    nesterov: bool = True
    """Whether the update looks one step ahead: the gradient counts once more."""
    iterations: int = Field(default=5, ge=1, lt=100)
    """Newton-Schulz iterations towards an orthogonal matrix; 5 bring all singular values near 1 (Jordan, 2024)."""
    weight_decay: float = Field(default=0.0, ge=0)
    """How much weights shrink at each step, times the learning rate. 0 for short runs; Liu et al. took 0.1."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's, for what is no matrix inside a layer."""
    eps: float = Field(default=1e-8, gt=0)
    """AdamW's, for what is no matrix inside a layer."""

    def begin(self, moving: Sequence[TrainableParameter]) -> list[torch.optim.Optimizer]:
        """Return torch's Muon, scaled to the length of AdamW's updates, and torch's AdamW."""
        import torch

        inner = [parameter for parameter in moving if is_hidden_matrix(parameter.name, parameter.weight.shape)]
        rest = [parameter for parameter in moving if not is_hidden_matrix(parameter.name, parameter.weight.shape)]
        optimizers: list[torch.optim.Optimizer] = self._get_adamw().begin(rest) if rest else []
        if inner:
            muon = torch.optim.Muon(
                build_parameter_groups(inner, self.weight_decay),
                momentum=self.momentum,
                nesterov=self.nesterov,
                ns_steps=self.iterations,
                adjust_lr_fn="match_rms_adamw",
            )
            optimizers.append(muon)
        return optimizers

    def _get_adamw(self) -> AdamW:
        return AdamW(betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)

    def state_bytes(self, shapes: Shapes) -> int:
        """Return one fp32 number for each weight of a matrix, and AdamW's for the rest."""
        inner = {name: shape for name, shape in shapes.items() if is_hidden_matrix(name, shape)}
        rest = {name: shape for name, shape in shapes.items() if name not in inner}
        return sum(4 * math.prod(shape) for shape in inner.values()) + self._get_adamw().state_bytes(rest)

    def rate(self, technique: LearningRate) -> LearningRate:
        """Return AdamW's rate: updates are scaled to its usual length, so that its rates carry over (Liu et
        al., 2025).
        """
        return technique._replace(why=f"{technique.why}; Muon's updates are scaled to AdamW's length")

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The momentum and the weight decay."""
        return {
            "momentum": ParamDistribution(values=(0.9, 0.95, 0.98)),
            "weight_decay": ParamDistribution(values=(0.0, 0.01, 0.1)),
        }
