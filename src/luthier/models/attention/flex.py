"""Attention over a pack by FlexAttention: a GPU computes only the tiles of the mask that hold anything.

A pack stands in the order of its tree, so that whatever descends from a segment follows it at once: a token sees
another exactly when that one stands before it and the subtree of its segment has not ended.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

from luthier.models.attention.plain import Manner
from luthier.models.attention.plan import Plan
from luthier.models.pack import Pack


def tree_attention(query: Tensor, key: Tensor, value: Tensor, plan: Plan, manner: Manner) -> Tensor:
    """Queries (1, heads, T, d), keys and values (1, key heads, T, d) to outputs (1, T, heads, d); nothing is dropped.

    Compiled on an accelerator; on a CPU it is torch's own reference, without a backward.
    """
    attend: Any = flex_attention if query.device.type == "cpu" else _compiled()
    out, aux = attend(
        query,
        key,
        value,
        score_mod=None if manner.softcap is None else _capped(manner.softcap),
        block_mask=_mask(plan, manner.window),
        scale=manner.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
        return_aux=AuxRequest(lse=manner.sinks is not None),
    )
    if manner.sinks is not None:  # a sink is one more key without a value: it takes its share of every sum
        out = out * torch.sigmoid(aux.lse - manner.sinks[None, :, None])[..., None].to(out.dtype)
    by_token: Tensor = out.transpose(1, 2).contiguous()
    return by_token


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=True)


_MASKS: WeakKeyDictionary[Plan, dict[int | None, BlockMask]] = WeakKeyDictionary()


def _mask(plan: Plan, window: int | None) -> BlockMask:
    """The pack's mask in tiles, made once for all layers with the same window."""
    known = _MASKS.setdefault(plan, {})
    if window not in known:
        device = plan.pack.ids.device
        ends, positions = subtree_ends(plan.pack).to(device), plan.pack.positions.to(device)

        def sees(_row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            seen = (key <= query) & (query < ends[key])
            return seen if window is None else seen & (positions[query] - positions[key] < window)

        tokens = plan.pack.tokens
        known[window] = create_block_mask(sees, None, None, tokens, tokens, device=device)
    return known[window]


def subtree_ends(pack: Pack) -> Tensor:
    """(T,) for each token, where what descends from its segment ends."""
    parent, starts = pack.parent.tolist(), pack.starts.tolist()
    ends = starts[1:]
    for segment in reversed(range(len(parent))):
        if parent[segment] >= 0:
            ends[parent[segment]] = max(ends[parent[segment]], ends[segment])
    return torch.tensor(ends).repeat_interleave(pack.starts.diff().cpu())


def _capped(softcap: float) -> Callable[..., Tensor]:
    def cap(score: Tensor, _row: Tensor, _head: Tensor, _query: Tensor, _key: Tensor) -> Tensor:
        return torch.tanh(score / softcap) * softcap

    return cap
