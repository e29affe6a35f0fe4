"""The update of Yogi (Zaheer et al., 2018), as FedYogi has it (Reddi et al., 2021)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class YogiOptimizer(torch.optim.Optimizer):
    """m ← β₁ m + (1 − β₁) g;  v ← v − (1 − β₂) g² sign(v − g²);  w ← w − rate · m / (√v + ε)."""

    def __init__(self, groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": 1.0, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no loss is asked
        """Update all weights that have a gradient."""
        for group in self.param_groups:
            (first, second), rate = group["betas"], group["lr"]
            for weight in group["params"]:
                if (gradient := weight.grad) is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["mean"], state["square"] = torch.zeros_like(weight), torch.zeros_like(weight)
                mean, square, squared = state["mean"], state["square"], gradient.square()
                mean.lerp_(gradient, 1 - first)
                square.sub_((1 - second) * squared * (square - squared).sign())
                weight.mul_(1 - rate * group["weight_decay"])
                weight.addcdiv_(mean, square.sqrt().add_(group["eps"]), value=-rate)
