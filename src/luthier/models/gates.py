"""Gated MLPs in bfloat16 on a CPU: `silu(gate) * up` in one pass, and its gradients as one product takes them.

MLPs stay transformers' own modules; only their `forward` is replaced, where one of their kind was seen to give the
same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luthier.models.kernels.calls import at
from luthier.models.norms import distance

_PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_AGREES = 1e-2
"""Relative distance up to which two bf16 results are the same; torch rounds between its operations."""


def install(model: torch.nn.Module) -> int:
    """Give every bfloat16 MLP of the known kind the quicker forward, where kernels stand; returns how many took it."""
    kinds: dict[type, bool] = {}
    taken = 0
    for module in model.modules():
        kind = type(module)
        known = {name for name, _ in module.named_children()} == _PARTS and "forward" not in module.__dict__
        weight = next(module.parameters(), None)
        if not known or weight is None or at(weight) is None:
            continue
        if kind not in kinds:
            kinds[kind] = _is_plain(module)
        if kinds[kind]:
            module.forward = _Forward(module)
            taken += 1
    return taken


class _Forward:
    """The forward of one MLP."""

    def __init__(self, module: Any) -> None:
        self._module, self._own = module, type(module).forward

    def __call__(self, x: Tensor) -> Tensor:
        module = self._module
        if at(x) is None:
            same: Tensor = self._own(module, x)
            return same
        out: Tensor = module.down_proj(_Gated.apply(module.gate_proj(x), module.up_proj(x)))  # type: ignore[no-untyped-call]
        return out


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        kernels = at(gate)
        assert kernels is not None, "a forward that takes kernels has them"
        return kernels.gated(gate, up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        kernels = at(gate)
        assert kernels is not None, "what was read with kernels goes back with them"
        return kernels.gated_back(grads[0], gate, up)


def _is_plain(module: Any) -> bool:
    """Whether an MLP computes what ours does: tried on one input, forward and backward."""
    width = module.gate_proj.in_features
    draws = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(1, 3, width, generator=draws).bfloat16() for _ in range(2))
    with torch.enable_grad():
        x.requires_grad_()
        own = module(x)
        (own_slope,) = torch.autograd.grad(own, x, grad)
        ours = _Forward(module)(x)
        (slope,) = torch.autograd.grad(ours, x, grad)
    return distance(ours, own) <= _AGREES and distance(slope, own_slope) <= _AGREES
