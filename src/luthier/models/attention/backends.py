"""Tree attention by a dense mask, by SDPA and by FlexAttention.

`dense_pack_attention` uses a dense mask and is the reference that the faster backends are tested against.
`sdpa_pack_attention` uses SDPA with a dense mask, for accelerators without a faster backend. `flex_pack_attention` uses
FlexAttention, which computes only the tiles of the mask that are not empty.

A pack is in depth-first order, so the descendants of a segment follow it directly. A token attends to an earlier token
exactly when the subtree of the earlier token's segment has not ended.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

from luthier.models.attention.cpu import AttentionPlan
from luthier.models.packing.pack import Pack


class AttentionParams(NamedTuple):
    """Attention parameters of an architecture besides queries, keys and values."""

    scaling: float
    window: int | None = None
    """Sliding window: tokens at this distance or further are masked."""
    softcap: float | None = None
    sinks: Tensor | None = None  # (heads,)
    dropout: float = 0.0


def dense_pack_attention(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, params: AttentionParams
) -> Tensor:
    """Compute attention over a pack with a dense mask in plain torch: queries (1, heads, T, d) to outputs (1, T, heads,
    d)."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ key.transpose(2, 3)) * params.scaling
    if params.softcap is not None:
        scores = torch.tanh(scores / params.softcap) * params.softcap
    scores = scores.masked_fill(~plan.dense(params.window), float("-inf"))
    wide = torch.promote_types(query.dtype, torch.float32)
    if params.sinks is not None:
        sinks = params.sinks.reshape(1, -1, 1, 1).expand(1, query.shape[1], query.shape[2], 1)
        shares = torch.softmax(torch.cat([scores, sinks.to(scores.dtype)], -1), -1, dtype=wide)[..., :-1]
    else:
        shares = torch.softmax(scores, -1, dtype=wide)
    shares = torch.nn.functional.dropout(shares.to(query.dtype), params.dropout, training=params.dropout > 0)
    return (shares @ value).transpose(1, 2).contiguous()


def sdpa_pack_attention(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, params: AttentionParams
) -> Tensor:
    """Compute attention over a pack with torch's `scaled_dot_product_attention`: queries (1, heads, T, d) to outputs
    (1, T, heads, d).

    These kernels support neither softcap nor sinks.
    """
    out = torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=plan.dense(params.window),
        dropout_p=params.dropout,
        scale=params.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2).contiguous()


def flex_pack_attention(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, params: AttentionParams
) -> Tensor:
    """Compute attention over a pack with torch's FlexAttention and a block mask: queries (1, heads, T, d) to outputs
    (1, T, heads, d); no dropout.

    Compiled on an accelerator; on a CPU it is torch's own reference, without a backward.
    """
    attend: Any = flex_attention if query.device.type == "cpu" else _compiled()
    out, aux = attend(
        query,
        key,
        value,
        score_mod=None if params.softcap is None else _build_softcap(params.softcap),
        block_mask=_mask(plan, params.window),
        scale=params.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
        return_aux=AuxRequest(lse=params.sinks is not None),
    )
    if params.sinks is not None:  # a sink is one more key without a value: it takes its share of every sum
        out = out * torch.sigmoid(aux.lse - params.sinks[None, :, None])[..., None].to(out.dtype)
    by_token: Tensor = out.transpose(1, 2).contiguous()
    return by_token


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=True)


_MASKS: WeakKeyDictionary[AttentionPlan, dict[int | None, BlockMask]] = WeakKeyDictionary()


def _mask(plan: AttentionPlan, window: int | None) -> BlockMask:
    """Return the pack's block mask, built once for all layers with the same window."""
    known = _MASKS.setdefault(plan, {})
    if window not in known:
        device = plan.pack.ids.device
        ends, positions = compute_subtree_ends(plan.pack).to(device), plan.pack.positions.to(device)

        def sees(_row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            visible = (key <= query) & (query < ends[key])
            return visible if window is None else visible & (positions[query] - positions[key] < window)

        tokens = plan.pack.tokens
        known[window] = create_block_mask(sees, None, None, tokens, tokens, device=device)
    return known[window]


def compute_subtree_ends(pack: Pack) -> Tensor:
    """Return (T,) for each token the end of its segment's subtree."""
    parent, starts = pack.parent.tolist(), pack.starts.tolist()
    ends = starts[1:]
    for segment in reversed(range(len(parent))):
        if parent[segment] >= 0:
            ends[parent[segment]] = max(ends[parent[segment]], ends[segment])
    return torch.tensor(ends).repeat_interleave(pack.starts.diff().cpu())


def _build_softcap(softcap: float) -> Callable[..., Tensor]:
    def cap(score: Tensor, _row: Tensor, _head: Tensor, _query: Tensor, _key: Tensor) -> Tensor:
        return torch.tanh(score / softcap) * softcap

    return cap
