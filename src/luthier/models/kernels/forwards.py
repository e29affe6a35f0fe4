"""Quicker forwards for modules that stay transformers' own, where one of their kind was seen to give the same."""

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
    """Give modules that fit another forward; one of each class is tried by `is_plain`. Returns how many took it."""
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
    """Whether two forwards agree on an input, and in the gradient of it, up to a relative distance."""
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        expected, found = own(x), ours(x)
        slopes = [torch.autograd.grad(out, x, grad)[0] for out in (expected, found)]
    return relative_distance(found, expected) <= agrees and relative_distance(slopes[1], slopes[0]) <= agrees


def relative_distance(one: Tensor, other: Tensor) -> float:
    """How far one tensor lies from another, over the length of that one, in at least fp32."""
    wide = torch.promote_types(other.dtype, torch.float32)
    one, other = one.detach().to(wide), other.detach().to(wide)
    return float((one - other).norm() / other.norm().clamp_min(1e-12))
