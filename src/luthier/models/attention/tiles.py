"""Attention over a pack on a CPU in bfloat16, where the compiled kernels serve: scores never leave the caches.

It computes what `blocks.py` does, of the same blocks, in one call for all of them. Nothing of the size of the scores is
kept for the backward, which computes them again from each query's norm (Dao et al. 2022, FlashAttention).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luthier.models.attention.plan import Block, Plan, merged
from luthier.models.kernels.attention import Attention, Seen, laid_out


def tile_attention(
    query: Tensor, key: Tensor, value: Tensor, plan: Plan, scaling: float, window: int | None, kernels: Attention
) -> Tensor:
    """Queries (1, heads, T, d), keys and values (1, key heads, T, d) to outputs (1, T, heads, d)."""
    states = laid_out(query), laid_out(key), laid_out(value)
    out: Tensor = _TileAttention.apply(*states, plan.kept(window, _seen), scaling, plan.first, kernels)  # type: ignore[no-untyped-call]
    return out


class _TileAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, seen: Seen, scaling: float, first: int, kernels: Attention
    ) -> Tensor:
        out, norms = kernels.attend(query, key, value, seen, scaling, first)
        ctx.save_for_backward(query, key, value, out, norms)
        ctx.how = seen, scaling, kernels
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None, None]:
        query, key, value, *kept = ctx.saved_tensors
        seen, scaling, kernels = ctx.how
        slopes = kernels.attend_back(laid_out(grads[0]), query, key, value, (kept[0], kept[1]), seen, scaling)
        return *slopes, None, None, None, None


def _seen(plan: Plan, window: int | None) -> Seen:
    """What the kernels are told of a plan's blocks."""
    biases = plan.bias(window, torch.float32)
    return Seen([_block(block, bias) for block, bias in zip(plan.blocks, biases, strict=True)])


def _block(block: Block, bias: tuple[Tensor | None, Tensor]) -> tuple[slice, tuple[slice, ...], Tensor | None]:
    shared, own = bias
    spans = merged(block.shared)
    if shared is None:
        sees = (own == 0).t()
        is_causal = bool(sees.equal(torch.ones_like(sees).triu()))
        return block.rows, (*spans, block.rows), None if is_causal else sees
    sees = torch.cat([shared == 0, own == 0], 1).t()
    keep, kept, at = [], [], 0
    for span in spans:
        seen = sees[at : at + span.stop - span.start].any(1).nonzero()[:, 0].tolist()
        if seen:  # keys at either end that no row sees are left out
            kept.append(slice(span.start + seen[0], span.start + seen[-1] + 1))
            keep.append(sees[at + seen[0] : at + seen[-1] + 1])
        at += span.stop - span.start
    return block.rows, (*kept, block.rows), torch.cat([*keep, sees[at:]])
