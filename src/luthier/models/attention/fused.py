"""Attention over a pack by torch's fused kernels with a dense mask: for accelerators on which nothing better runs."""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.models.attention.plain import Manner
from luthier.models.attention.plan import Plan


def fused_attention(query: Tensor, key: Tensor, value: Tensor, plan: Plan, manner: Manner) -> Tensor:
    """Queries (1, heads, T, d), keys and values (1, key heads, T, d) to outputs (1, T, heads, d).

    Neither capped scores nor sinks are known to these kernels.
    """
    out = torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=plan.dense(manner.window),
        dropout_p=manner.dropout,
        scale=manner.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2).contiguous()
