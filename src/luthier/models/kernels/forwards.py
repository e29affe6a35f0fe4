"""Faster `forward` functions for transformers' own modules, used where a trial on one module of a class agrees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def replace_forwards(
    model: torch.nn.Module,
    fits: Callable[[Any], bool],
    is_plain: Callable[[Any], bool],
    forward: Callable[[Any], Callable[[Tensor], Tensor]],
) -> int:
    """Replace the forward of modules that fit, after a trial (`is_plain`) on one module of each class; returns the
    number of replaced ones.
    """
    kinds: dict[type, bool] = {}
    taken = 0
    for module in model.modules():
        kind = type(module)
        if "forward" in module.__dict__ or not fits(module):
            continue
        if kind not in kinds:
            kinds[kind] = is_plain(module)
        if kinds[kind]:
            module.forward = forward(module)
            taken += 1
    return taken


def forwards_agree(ours: Callable[[Tensor], Tensor], own: Any, x: Tensor, agrees: float) -> bool:
    """Return whether two forwards agree on an input, and in its gradient, up to a relative distance."""
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        expected, actual = own(x), ours(x)
        slopes = [torch.autograd.grad(out, x, grad)[0] for out in (expected, actual)]
    return relative_distance(actual, expected) <= agrees and relative_distance(slopes[1], slopes[0]) <= agrees


def relative_distance(first: Tensor, second: Tensor) -> float:
    """Return the norm of the difference of two tensors over the norm of the second, in at least fp32."""
    wide = torch.promote_types(second.dtype, torch.float32)
    first, second = first.detach().to(wide), second.detach().to(wide)
    return float((first - second).norm() / second.norm().clamp_min(1e-12))
