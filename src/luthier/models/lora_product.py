"""LoRA as one matrix product: `[x | x A] · [W | s B]`, so that small updates survive bf16.

Adding a low-rank delta to an output that was already rounded to bf16 loses most of what a young adapter says. Here base
and adapter are summed inside one product, in fp32, and rounded once; it also saves a pass over the output. Layers stay
PEFT's own: only their `forward` is replaced, and only while one plain adapter is active and nothing is dropped out.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor


def one_product(model: torch.nn.Module) -> int:
    """Give every LoRA layer that can have it the one-product forward; returns how many took it."""
    taken = 0
    for module in model.modules():
        if isinstance(module, LoraLinear) and _can(module):
            module.forward = _Forward(module)
            taken += 1
    return taken


def own_forward(model: torch.nn.Module) -> None:
    """Give PEFT's own forward back to every layer."""
    for module in model.modules():
        if isinstance(module, LoraLinear) and isinstance(module.__dict__.get("forward"), _Forward):
            del module.forward


def _can(layer: LoraLinear) -> bool:
    """Whether the layer is one plain low-rank adapter over one plain linear layer."""
    plain = type(layer.base_layer) is torch.nn.Linear and not layer.fan_in_fan_out
    return plain and len(layer.active_adapters) == 1 and not getattr(layer, "lora_variant", None)


class _Forward:
    """The forward of one layer; its base weight lives inside the joint matrix `[W | s B]`, never twice."""

    def __init__(self, layer: LoraLinear) -> None:
        self.layer = layer
        self.peft = type(layer).forward
        self.joint: Tensor | None = None  # (out, in + rank)

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer = self.layer
        (adapter,) = layer.active_adapters[:1] or [""]
        if args or kwargs or not self._applies(adapter):
            out: Tensor = self.peft(layer, x, *args, **kwargs)
            return out
        down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        joint, scale = self._joined(up.shape[1]), float(layer.scaling[adapter])
        flat = x.reshape(-1, x.shape[-1]).to(joint.dtype)
        found: Tensor = _OneProduct.apply(flat, joint, down, up, scale, layer.base_layer.bias)  # type: ignore[no-untyped-call]
        return found.view(*x.shape[:-1], -1)

    def _applies(self, adapter: str) -> bool:
        layer = self.layer
        if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1 or adapter not in layer.lora_A:
            return False
        dropout = layer.lora_dropout[adapter]
        dropping = layer.training and not isinstance(dropout, torch.nn.Identity)
        frozen = not layer.base_layer.weight.requires_grad
        return frozen and not dropping and layer.lora_B[adapter].bias is None

    def _joined(self, rank: int) -> Tensor:
        """The joint matrix; the base layer's weight becomes a view of its left part."""
        weight = self.layer.base_layer.weight
        width = weight.shape[1]
        joint = self.joint
        if joint is None or joint.shape[1] != width + rank or weight.data_ptr() != joint.data_ptr():
            joint = torch.empty(weight.shape[0], width + rank, dtype=weight.dtype, device=weight.device)
            joint[:, :width] = weight.detach()
            weight.data = joint[:, :width]
            self.joint = joint
        return joint


class _OneProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, joint: Tensor, down: Tensor, up: Tensor, scale: float, bias: Tensor | None
    ) -> Tensor:
        width = x.shape[1]
        small = down.to(x.dtype)  # (rank, in)
        joint[:, width:] = up.detach() * scale
        both = torch.empty(x.shape[0], joint.shape[1], dtype=x.dtype, device=x.device)
        both[:, :width] = x
        both[:, width:] = x @ small.t()
        ctx.save_for_backward(both, small)
        ctx.joint, ctx.scale, ctx.dtype = joint, scale, down.dtype
        return torch.nn.functional.linear(both, joint, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor, None, None]:
        both, small = ctx.saved_tensors
        width = small.shape[1]
        grad = grads[0].contiguous()
        through = grad @ ctx.joint  # (tokens, in + rank)
        inner = through[:, width:].contiguous()
        d_x = torch.addmm(through[:, :width], inner, small) if ctx.needs_input_grad[0] else None
        d_down = (inner.t() @ both[:, :width]).to(ctx.dtype)
        d_up = (grad.t() @ both[:, width:]).to(ctx.dtype).mul_(ctx.scale)
        return d_x, None, d_down, d_up, None, None
