"""Attention in blocks over shared keys equals attention with a dense mask, in value and gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.models.attention.backends import AttentionParams, dense_pack_attention
from luthier.models.attention.cpu import AttentionPlan, block_attention
from luthier.models.packing.pack import TokenRow, build_pack

LENGTHS = st.lists(st.integers(1, 150), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 150), LENGTHS, st.sampled_from([None, 3, 40]), st.sampled_from([1, 2]), st.booleans())
def test_blocks_equal_the_dense_mask(
    prefix: int, tails: list[int], window: int | None, groups: int, keep: bool
) -> None:
    torch.manual_seed(prefix)
    made = build_pack(
        [
            TokenRow([*([1] * prefix), *([2 + at] * tail), 9], [0.0] * (prefix + tail) + [1.0])
            for at, tail in enumerate(tails)
        ]
    )
    plan = AttentionPlan(made)
    states = [torch.randn(1, heads, made.tokens, 4, dtype=torch.float64) for heads in (2 * groups, 2, 2)]
    up = torch.randn(1, made.tokens, 2 * groups, 4, dtype=torch.float64)
    results = []
    for attend in (
        lambda q, k, v: block_attention(q, k, v, plan, 0.3, window),
        lambda q, k, v: dense_pack_attention(q, k, v, plan, AttentionParams(0.3, window)),
    ):
        leaves = [state.clone().requires_grad_() for state in states]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("luthier.models.attention.cpu.KEEP_BYTES", (1 << 28) if keep else 0)
            out = attend(*leaves)
            out.backward(up)
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


TREES = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=30), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(TREES, st.integers(0, 60), st.sampled_from([None, 2, 9]), st.sampled_from([6, 20, 96]))
def test_blocks_of_subtrees_equal_the_dense_mask(
    rows: list[list[int]], prefix: int, window: int | None, together: int
) -> None:
    torch.manual_seed(prefix)
    made = build_pack(
        [TokenRow([*([1] * prefix), *ids, 9], [0.0] * (prefix + len(ids)) + [1.0]) for ids in rows], share_from=2
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("luthier.models.attention.cpu.TOGETHER", together)
        plan = AttentionPlan(made)
    query, key, value = (torch.randn(1, heads, made.tokens, 4, dtype=torch.float64) for heads in (4, 2, 2))
    found = block_attention(query, key, value, plan, 0.3, window)
    torch.testing.assert_close(
        found, dense_pack_attention(query, key, value, plan, AttentionParams(0.3, window)), atol=1e-11, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_blocks_are_as_near_to_float64_as_the_dense_mask_is(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    made = build_pack([TokenRow([*([1] * 90), *([2 + at] * 30), 9], [0.0] * 120 + [1.0]) for at in range(4)])
    plan = AttentionPlan(made)
    query, key, value = (torch.randn(1, heads, made.tokens, 16, dtype=torch.float64) for heads in (6, 2, 2))
    exact = dense_pack_attention(query, key, value, plan, AttentionParams(0.25))
    low = [state.to(dtype) for state in (query, key, value)]
    dense = (dense_pack_attention(*low, plan, AttentionParams(0.25)).double() - exact).norm()
    blocks = (block_attention(*low, plan, 0.25, None).double() - exact).norm()
    assert blocks <= 1.5 * dense
