"""Rotary positions in bfloat16 on a CPU, in one pass over queries and one over keys.

An architecture's own function stays: it is wrapped, where it was seen to give the same, and still called for all that
the kernel does not do (other numbers, several rows at once, part of a head).
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from luthier.models.kernels.calls import get_layer_op_kernels
from luthier.models.kernels.forwards import relative_distance

_NAME = "apply_rotary_pos_emb"
_AGREES = 1e-2
"""Relative distance up to which two bf16 results are the same; torch rounds between its operations."""


def install_fast_rotary(model: torch.nn.Module) -> bool:
    """Wrap the function by which a model's architecture turns queries and keys, where kernels stand; whether it is."""
    parameter = next(model.parameters(), None)
    home = sys.modules[type(model).__module__]
    own = getattr(home, _NAME, None)
    if own is None or parameter is None or get_layer_op_kernels(parameter) is None:
        return False
    if not isinstance(own, _Turning) and _is_plain(own):
        setattr(home, _NAME, _Turning(own))
    return isinstance(getattr(home, _NAME), _Turning)


class _Turning:
    """The quicker function, and the architecture's own behind it."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def __call__(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **named: Any) -> Any:
        if more or named or not all(_can(x, cos) for x in (q, k)) or cos.shape != sin.shape:
            return self._own(q, k, cos, sin, *more, **named)
        angles = cos[0].contiguous(), sin[0].contiguous()
        return _Rotated.apply(q, *angles), _Rotated.apply(k, *angles)  # type: ignore[no-untyped-call]


def _can(x: Tensor, cos: Tensor) -> bool:
    """Whether the kernel turns these states: one row of tokens, whole heads, all in bf16."""
    one_row = x.ndim == 4 and x.shape[0] == 1 and cos.shape == (1, *x.shape[2:])
    return one_row and cos.dtype == x.dtype and get_layer_op_kernels(x) is not None


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        kernels = get_layer_op_kernels(x)
        assert kernels is not None, "who turns by the kernel has it"
        return kernels.rotate(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        kernels = get_layer_op_kernels(grads[0])
        assert kernels is not None, "what was turned by the kernel is turned back by it"
        return kernels.rotate(grads[0], cos, sin, back=True), None, None


def _is_plain(own: Any) -> bool:
    """Whether a function computes what the kernel does: tried on a few states, forward and backward."""
    draws = torch.Generator().manual_seed(0)
    q, k, grad = (torch.randn(1, heads, 5, 16, generator=draws).bfloat16() for heads in (4, 2, 4))
    cos, sin = (torch.rand(1, 5, 16, generator=draws).bfloat16() for _ in range(2))
    with torch.enable_grad():
        q.requires_grad_()
        try:
            expected = own(q, k, cos, sin)
        except (TypeError, RuntimeError):
            return False  # it takes other things (GPT-J, Gemma 4), or angles of half a head (GPT-OSS)
        found = _Turning(own)(q, k, cos, sin)
        slopes = [torch.autograd.grad(turned[0], q, grad)[0] for turned in (found, expected)]
    pairs = [(found[0], expected[0]), (found[1], expected[1]), (slopes[0], slopes[1])]
    return all(entry.shape == other.shape and relative_distance(entry, other) <= _AGREES for entry, other in pairs)
