"""Attention over a pack with a dense mask: slow, simple, right; what every quicker path is proven equal to."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from luthier.models.attention.plan import Plan


class Manner(NamedTuple):
    """What an architecture asks of its attention beyond queries, keys and values."""

    scaling: float
    window: int | None = None
    """Tokens at this distance or further are not seen."""
    softcap: float | None = None
    sinks: Tensor | None = None  # (heads,)
    dropout: float = 0.0


def plain_attention(query: Tensor, key: Tensor, value: Tensor, plan: Plan, manner: Manner) -> Tensor:
    """Queries (1, heads, T, d), keys and values (1, key heads, T, d) to outputs (1, T, heads, d)."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ key.transpose(2, 3)) * manner.scaling
    if manner.softcap is not None:
        scores = torch.tanh(scores / manner.softcap) * manner.softcap
    scores = scores.masked_fill(~plan.dense(manner.window), float("-inf"))
    wide = torch.promote_types(query.dtype, torch.float32)
    if manner.sinks is not None:
        sinks = manner.sinks.reshape(1, -1, 1, 1).expand(1, query.shape[1], query.shape[2], 1)
        shares = torch.softmax(torch.cat([scores, sinks.to(scores.dtype)], -1), -1, dtype=wide)[..., :-1]
    else:
        shares = torch.softmax(scores, -1, dtype=wide)
    shares = torch.nn.functional.dropout(shares.to(query.dtype), manner.dropout, training=manner.dropout > 0)
    return (shares @ value).transpose(1, 2).contiguous()
