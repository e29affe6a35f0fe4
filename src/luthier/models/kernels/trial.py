"""The trial of freshly compiled kernels: they must give what torch gives, in less time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from luthier.models.kernels.calls import Kernels

AGREES = 8e-3
"""Relative distance of two bf16 results up to which they are the same: torch rounds between its operations."""
_TRIES = 7


def passes(kernels: Kernels) -> bool:
    """Whether every kernel agrees with torch, and all together take less time."""
    cases = _cases(kernels)
    if not all(_agree(ours(), plain()) for ours, plain in cases):
        return False
    return sum(_seconds(ours) for ours, _ in cases) < sum(_seconds(plain) for _, plain in cases)


Case = tuple[Callable[[], Sequence[Tensor]], Callable[[], Sequence[Tensor]]]


def _cases(kernels: Kernels) -> list[Case]:
    """Each kernel beside torch's operations."""
    draws = torch.Generator().manual_seed(0)
    x, up, grad, weight = (torch.randn(size, generator=draws).bfloat16() for size in [(300, 200)] * 3 + [(200,)])
    scores = torch.randn(2, 3 * 50, 70, generator=draws).bfloat16()
    bias = torch.zeros(50, 50).masked_fill_(torch.ones(50, 50).triu(1).bool(), float("-inf")).bfloat16()
    _, scale = kernels.norm(x, weight, 1e-5)
    shares = torch.softmax(scores, -1)
    along = torch.randn(2, 150, generator=draws)
    logits, targets = torch.randn(40, 4100, generator=draws).bfloat16(), torch.arange(7, 47)
    return [
        (lambda: kernels.norm(x, weight, 1e-5), lambda: _norm(x, weight)),
        (lambda: [kernels.norm_back(grad, x, weight, scale)], lambda: _slopes(lambda a: _norm(a, weight)[0], grad, x)),
        (lambda: [kernels.gated(x, up)], lambda: [_gated(x, up)]),
        (lambda: kernels.gated_back(grad, x, up), lambda: _slopes(_gated, grad, x, up)),
        (lambda: [kernels.softmax_(scores.clone(), bias, 3)], lambda: [_softmax(scores, bias)]),
        (
            lambda: [kernels.softmax_back_(scores.clone(), shares, along)],
            lambda: [(scores - along.bfloat16()[..., None]) * shares],
        ),
        (lambda: _chosen(kernels, logits.clone(), targets), lambda: _plain_chosen(logits.clone(), targets)),
    ]


def _norm(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    scale = (x.float().square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    return (x.float() * scale).bfloat16() * weight, scale


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return torch.nn.functional.silu(gate) * up


def _softmax(scores: Tensor, bias: Tensor) -> Tensor:
    made = scores.clone()
    made.view(2, 50, 3, 70)[..., 20:].add_(bias[:, None])
    return torch.softmax(made, -1)


def _chosen(kernels: Kernels, logits: Tensor, targets: Tensor) -> Sequence[Tensor]:
    return [kernels.chosen_(logits, targets, None, slopes=True), logits]


def _plain_chosen(logits: Tensor, targets: Tensor) -> Sequence[Tensor]:
    logps = torch.log_softmax(logits.float(), -1)
    slopes = logps.exp().neg_().scatter_add_(1, targets[:, None], torch.ones(len(targets), 1))
    return [logps.gather(1, targets[:, None])[:, 0], slopes.bfloat16()]


@torch.enable_grad()
def _slopes(function: Callable[..., Tensor], grad: Tensor, *given: Tensor) -> Sequence[Tensor]:
    inputs = [one.detach().requires_grad_() for one in given]
    return torch.autograd.grad(function(*inputs), inputs, grad)


def _agree(ours: Sequence[Tensor], plain: Sequence[Tensor]) -> bool:
    pairs = [(one.float(), other.float()) for one, other in zip(ours, plain, strict=True)]
    return all(bool((one - other).norm() <= AGREES * other.norm()) for one, other in pairs)


def _seconds(run: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_TRIES):
        begun = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begun)
    return best
