"""Attention by compiled kernels equals attention with a dense mask, rounded; where they cannot serve, torch does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from luthier.models.attention.backends import AttentionParams, dense_pack_attention
from luthier.models.attention.cpu import AttentionPlan, block_attention, tile_attention
from luthier.models.attention.select import run_attention_backend
from luthier.models.kernels import attention_ops
from luthier.models.kernels.attention_ops import AttentionKernels, KernelBlockMask, get_attention_kernels
from luthier.models.kernels.calls import disable_kernels
from luthier.models.kernels.compile import IN_ANY_ORDER, CompiledLibrary, compile_library, find_c_compiler
from luthier.models.kernels.trial import passes_attention_trial
from luthier.models.packing.pack import TokenRow, build_pack

KERNELS = get_attention_kernels()
pytestmark = pytest.mark.skipif(KERNELS is None, reason=f"no attention kernels here (compiler: {find_c_compiler()})")
SHAPES = [(9, 3, 64), (2, 2, 32), (8, 1, 32), (4, 2, 128)]


@pytest.fixture
def kernels() -> AttentionKernels:
    found = get_attention_kernels()
    assert found is not None
    return found


@pytest.fixture
def one_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache with nothing in it, and a process that has looked for no kernels yet."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path))
    attention_ops._kernels.cache_clear()
    yield tmp_path
    attention_ops._kernels.cache_clear()


def plan_of(prefix: int, tails: list[list[int]]) -> AttentionPlan:
    """Rows that begin alike, and go on with some ids."""
    rows = [TokenRow([*([1] * prefix), *ids, 9], [0.0] * (prefix + len(ids)) + [1.0]) for ids in tails]
    return AttentionPlan(build_pack(rows, share_from=2))


def draw(plan: AttentionPlan, *heads: int, width: int, seed: int = 0) -> list[Tensor]:
    """States in bfloat16 (1, heads, T, width) as a model's projections lie: each token's heads side by side."""
    draws = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(1, plan.pack.tokens, count, width, generator=draws).bfloat16() for count in heads]
    return [one.transpose(1, 2) for one in drawn]


def slopes(out: Tensor, up: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out, leaves, up.to(out.dtype))


def hold(plan: AttentionPlan, shape: tuple[int, int, int], window: int | None, kernels: AttentionKernels) -> None:
    """Outputs and gradients are those of fp32 but for rounding: about as near as torch's products of blocks come."""
    heads, key_heads, width = shape
    states = draw(plan, heads, key_heads, key_heads, width=width)
    (up,) = draw(plan, heads, width=width, seed=1)

    def found(dtype: torch.dtype, attention: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[Tensor]:
        leaves = query, key, value = [state.to(dtype).requires_grad_() for state in states]
        out = attention(query, key, value)
        return [out, *slopes(out, up.transpose(1, 2), leaves)]

    ours = found(torch.bfloat16, lambda q, k, v: tile_attention(q, k, v, plan, 0.2, window, kernels))
    with disable_kernels():
        blocks = found(torch.bfloat16, lambda q, k, v: block_attention(q, k, v, plan, 0.2, window))
    exact = found(torch.float32, lambda q, k, v: dense_pack_attention(q, k, v, plan, AttentionParams(0.2, window)))
    for one, other, wanted in zip(ours, blocks, exact, strict=True):
        assert one.dtype == torch.bfloat16
        assert one.shape == wanted.shape
        assert (one.float() - wanted).norm() <= max(4e-3 * wanted.norm(), 1.2 * (other.float() - wanted).norm()) + 1e-4


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 150), st.lists(st.integers(1, 150), min_size=1, max_size=5), st.sampled_from([None, 3, 40]),
    st.sampled_from(SHAPES),
)  # fmt: skip
def test_kernels_equal_the_dense_mask(
    prefix: int, tails: list[int], window: int | None, shape: tuple[int, int, int]
) -> None:
    assert KERNELS is not None
    hold(plan_of(prefix, [[2 + at] * tail for at, tail in enumerate(tails)]), shape, window, KERNELS)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=30), min_size=1, max_size=12), st.integers(0, 60),
    st.sampled_from([None, 2, 9]),
)  # fmt: skip
def test_kernels_on_subtrees_equal_the_dense_mask(rows: list[list[int]], prefix: int, window: int | None) -> None:
    assert KERNELS is not None
    hold(plan_of(prefix, rows), (4, 2, 32), window, KERNELS)


def test_scores_far_apart_and_long_spans_are_no_trouble(kernels: AttentionKernels) -> None:
    plan = plan_of(700, [[3] * 20, [4] * 400])
    query, key, value = draw(plan, 4, 2, 2, width=32)
    query = query * 60
    out = tile_attention(query, key, value, plan, 1.0, None, kernels)
    exact = dense_pack_attention(query.float(), key.float(), value.float(), plan, AttentionParams(1.0))
    assert out.isfinite().all()
    assert (out.float() - exact).norm() <= 6e-3 * exact.norm()


def test_rows_of_a_pack_do_not_see_each_other(kernels: AttentionKernels) -> None:
    plan = plan_of(0, [[2] * 70, [3] * 90])
    states = [one.requires_grad_() for one in draw(plan, 6, 2, 2, width=32)]
    out = tile_attention(states[0], states[1], states[2], plan, 0.2, None, kernels)
    for of, other in ((slice(0, 70), slice(71, None)), (slice(71, None), slice(0, 70))):
        query, key, value = torch.autograd.grad(out[:, of].float().sum(), states, retain_graph=True)
        assert value[:, :, of].any()
        assert not any(one[:, :, other].any() for one in (query, key, value))


def test_the_number_of_threads_changes_no_bit(kernels: AttentionKernels) -> None:
    plan = plan_of(200, [[2] * 150, [3] * 40, [4] * 60])
    states = [one.requires_grad_() for one in draw(plan, 6, 2, 2, width=32)]
    (up,) = draw(plan, 6, width=32, seed=1)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        out = tile_attention(states[0], states[1], states[2], plan, 0.2, None, kernels)
        found.append([out, *slopes(out, up.transpose(1, 2), states)])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_states_may_lie_in_any_way(kernels: AttentionKernels) -> None:
    plan = plan_of(40, [[2] * 50, [3] * 40])
    states = draw(plan, 6, 2, 2, width=32)
    wanted = tile_attention(states[0], states[1], states[2], plan, 0.2, None, kernels)
    turned = [one.transpose(2, 3).contiguous().transpose(2, 3) for one in states]
    for others in ([one.contiguous() for one in states], turned):
        assert torch.equal(tile_attention(others[0], others[1], others[2], plan, 0.2, None, kernels), wanted)


def test_the_kernels_are_used_where_they_can_serve(kernels: AttentionKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.Size] = []

    def counted(self: AttentionKernels, query: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
        calls.append(query.shape)
        return attends_really(self, query, *rest)  # type: ignore[arg-type]

    attends_really = AttentionKernels.attend
    monkeypatch.setattr(AttentionKernels, "attend", counted)
    plan = plan_of(20, [[2] * 30, [3] * 40])
    for width, dtype, used in ((48, torch.bfloat16, 0), (32, torch.float32, 0), (32, torch.bfloat16, 1)):
        calls.clear()
        query, key, value = (one.to(dtype) for one in draw(plan, 4, 2, 2, width=width))
        out = run_attention_backend(query, key, value, plan, AttentionParams(0.2))
        assert len(calls) == used
        exact = dense_pack_attention(query.float(), key.float(), value.float(), plan, AttentionParams(0.2))
        assert (out.float() - exact).norm() <= 1e-2 * exact.norm()
    calls.clear()
    with disable_kernels():
        run_attention_backend(query.bfloat16(), key.bfloat16(), value.bfloat16(), plan, AttentionParams(0.2))
    assert not calls


@pytest.mark.parametrize("flag", ["-mno-amx-bf16", "-DNOTHING"])
def test_each_way_of_multiplying_passes_its_trial(
    kernels: AttentionKernels, one_cache: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    """Against torch in fp32; whether it is quicker is for the trial where it is made."""
    times = cycle([0.0, 1.0])
    monkeypatch.setattr("luthier.models.kernels.trial._measure_seconds", lambda _: next(times))
    made = compile_library(
        "attention.c", lambda found: passes_attention_trial(AttentionKernels(found)), *IN_ANY_ORDER, flag
    )
    assert made is not None
    plan = plan_of(100, [[2] * 50, [3] * 40])
    hold(plan, (6, 2, 64), None, AttentionKernels(made))


def test_kernels_that_are_wrong_or_slow_are_never_used(
    kernels: AttentionKernels, one_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(AttentionKernels):
        def attend_back(self, *given: object) -> tuple[Tensor, Tensor, Tensor]:
            query, key, value = super().attend_back(*given)  # type: ignore[arg-type]
            return query, key * 1.1, value

    tried: list[CompiledLibrary] = []

    def wrong(made: CompiledLibrary) -> bool:
        tried.append(made)
        return passes_attention_trial(Wrong(made))

    assert compile_library("attention.c", wrong, *IN_ANY_ORDER) is None
    assert len(tried) == 1
    assert get_attention_kernels() is None
    monkeypatch.setattr("luthier.models.kernels.trial._measure_seconds", lambda _: 1.0)
    assert not passes_attention_trial(kernels)


def test_keys_that_no_row_of_a_window_sees_are_left_out(kernels: AttentionKernels) -> None:
    plan = plan_of(0, [[2] * 600])
    seen: list[KernelBlockMask] = []
    real = kernels.attend

    def noted(*given: object) -> tuple[Tensor, Tensor]:
        seen.append(given[3])  # type: ignore[arg-type]
        return real(*given)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "attend", noted)
        query, key, value = draw(plan, 4, 2, 2, width=32)
        tile_attention(query, key, value, plan, 0.2, 10, kernels)
    keys = [span.end - span.begin for span in seen[0].spans]
    assert keys == [128, 9, 128, 9, 128, 9, 128, 9, 88]
