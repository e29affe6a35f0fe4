"""Gated MLPs in bfloat16 on a CPU: `silu(gate) * up` in one pass, and their gradients in the layout of one product.

MLPs stay transformers' own modules; only their `forward` is replaced, where a trial on one of their class agrees.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luthier.models.gradient_rules import are_gradient_rules_active
from luthier.models.kernels.calls import get_layer_op_kernels
from luthier.models.kernels.forwards import forwards_agree, replace_forwards

_PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_AGREES = 1e-2
"""Maximum relative distance of two equal bf16 results; torch rounds between its operations."""


def install_gated_mlp(model: torch.nn.Module) -> int:
    """Replace the forward of every supported bfloat16 MLP, where kernels are available; returns their number."""
    return replace_forwards(model, _is_gated_mlp, _is_plain, _Forward)


def _is_gated_mlp(module: Any) -> bool:
    weight = next(module.parameters(), None)
    parts = {name for name, _ in module.named_children()}
    return parts == _PARTS and weight is not None and get_layer_op_kernels(weight) is not None


class _Forward:
    """The forward of one MLP."""

    def __init__(self, module: Any) -> None:
        self._module, self._own = module, type(module).forward

    def __call__(self, x: Tensor) -> Tensor:
        module = self._module
        if get_layer_op_kernels(x) is None or are_gradient_rules_active():
            same: Tensor = self._own(module, x)
            return same
        out: Tensor = module.down_proj(_Gated.apply(module.gate_proj(x), module.up_proj(x)))  # type: ignore[no-untyped-call]
        return out


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        kernels = get_layer_op_kernels(gate)
        assert kernels is not None, "a forward that takes kernels has them"
        return kernels.gated(gate, up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        kernels = get_layer_op_kernels(gate)
        assert kernels is not None, "what was read with kernels goes back with them"
        return kernels.gated_back(grads[0], gate, up)


def _is_plain(module: Any) -> bool:
    """Return whether an MLP computes what the kernel does: tried on one input, forward and backward."""
    x = torch.randn(1, 3, module.gate_proj.in_features, generator=torch.Generator().manual_seed(0)).bfloat16()
    return forwards_agree(_Forward(module), module, x, _AGREES)
