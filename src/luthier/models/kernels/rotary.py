"""Rotary embeddings in bfloat16 on a CPU, in one pass over queries and one over keys.

An architecture's own function is wrapped, where a trial agrees, and still called for everything that the kernel does
not support (other dtypes, several rows at once, part of a head).
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
"""Maximum relative distance of two equal bf16 results; torch rounds between its operations."""


def install_fast_rotary(model: torch.nn.Module) -> bool:
    """Wrap the rotary function of a model's architecture, where kernels are available; returns whether it
    is wrapped.
    """
    parameter = next(model.parameters(), None)
    home = sys.modules[type(model).__module__]
    own = getattr(home, _NAME, None)
    if own is None or parameter is None or get_layer_op_kernels(parameter) is None:
        return False
    if not isinstance(own, _Turning) and _is_plain(own):
        setattr(home, _NAME, _Turning(own))
    return isinstance(getattr(home, _NAME), _Turning)


class _Turning:
    """The kernel, with the architecture's own function as a fallback."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def __call__(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **named: Any) -> Any:
        if more or named or not all(_can(x, cos) for x in (q, k)) or cos.shape != sin.shape:
            return self._own(q, k, cos, sin, *more, **named)
        angles = cos[0].contiguous(), sin[0].contiguous()
        return _Rotated.apply(q, *angles), _Rotated.apply(k, *angles)  # type: ignore[no-untyped-call]


def _can(x: Tensor, cos: Tensor) -> bool:
    """Return whether the kernel supports these states: one row of tokens, whole heads, all in bf16."""
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
    """Return whether a function computes what the kernel does: tried on a few states, forward and backward."""
    draws = torch.Generator().manual_seed(0)
    q, k, grad = (torch.randn(1, heads, 5, 16, generator=draws).bfloat16() for heads in (4, 2, 4))
    cos, sin = (torch.rand(1, 5, 16, generator=draws).bfloat16() for _ in range(2))
    with torch.enable_grad():
        q.requires_grad_()
        try:
            expected = own(q, k, cos, sin)
        except (TypeError, RuntimeError):
            return False  # it takes other things (GPT-J, Gemma 4), or angles of half a head (GPT-OSS)
        actual = _Turning(own)(q, k, cos, sin)
        slopes = [torch.autograd.grad(turned[0], q, grad)[0] for turned in (actual, expected)]
    pairs = [(actual[0], expected[0]), (actual[1], expected[1]), (slopes[0], slopes[1])]
    return all(entry.shape == other.shape and relative_distance(entry, other) <= _AGREES for entry, other in pairs)
