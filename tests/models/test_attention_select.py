"""Every path of attention equals the plain one; which one computes is measured once, remembered, and never guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from luthier.models.attention import select
from luthier.models.attention.backends import AttentionParams, compute_subtree_ends, dense_pack_attention
from luthier.models.attention.cpu import AttentionPlan
from luthier.models.attention.select import PATHS, list_attention_backends, run_attention_backend
from luthier.models.packing.pack import TokenRow, build_pack, pad_pack_size
from models.architectures import by_flex

TREES = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=20), min_size=1, max_size=8)
BARE = AttentionParams(0.3)


def tree(rows: list[list[int]], prefix: int) -> AttentionPlan:
    made = build_pack(
        [TokenRow([*([1] * prefix), *ids, 9], [0.0] * (prefix + len(ids)) + [1.0]) for ids in rows], share_from=2
    )
    return AttentionPlan(pad_pack_size(made))


def states(plan: AttentionPlan, dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = [(1, heads, plan.pack.tokens, 16) for heads in (4, 2, 2)]
    return [torch.randn(shape, generator=draw, dtype=dtype).to(device) for shape in shapes]


@settings(max_examples=15, deadline=None)
@given(
    TREES,
    st.integers(0, 60),
    st.sampled_from([None, 2, 9]),
    st.sampled_from([None, 1.5]),
    st.booleans(),
    st.sampled_from([(torch.float64, 1e-12), (torch.float32, 1e-5)]),
)
def test_flex_equals_the_plain_path_forward_and_back(
    rows: list[list[int]], prefix: int, window: int | None, softcap: float | None, sinks: bool, kind: Any
) -> None:
    dtype, near = kind
    manner = AttentionParams(0.3, window, softcap, torch.linspace(-1, 1, 4, dtype=dtype) if sinks else None)
    with by_flex():
        assert_same_gradients("flex", tree(rows, prefix), manner, dtype, "cpu", near)


@settings(max_examples=15, deadline=None)
@given(TREES, st.integers(0, 60), st.sampled_from([None, 2, 9]))
def test_fused_equals_the_plain_path_forward_and_back(rows: list[list[int]], prefix: int, window: int | None) -> None:
    plan = tree(rows, prefix)
    assert_same_gradients("fused", plan, AttentionParams(0.3, window), torch.float64, "cpu", 1e-11)


def assert_same_gradients(
    name: str, plan: AttentionPlan, manner: AttentionParams, dtype: torch.dtype, device: str, near: float
) -> None:
    results = []
    for path in (PATHS[name], dense_pack_attention):
        leaves = [state.requires_grad_() for state in states(plan, dtype, device)]
        if manner.sinks is not None:
            leaves.append(manner.sinks.requires_grad_())
        out = path(*leaves[:3], plan, manner)
        results.append([out, *torch.autograd.grad(out, leaves, torch.sin(torch.arange(16.0)).to(out).expand_as(out))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=near, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here: compiled FlexAttention cannot be tried")
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("softcap", [None, 20.0])
def test_flex_on_a_gpu_equals_the_plain_path_forward_and_back(window: int | None, softcap: float | None) -> None:
    plan = tree([[at % 2] * (30 + at) for at in range(20)], 300)
    plan = AttentionPlan(plan.pack.on(torch.device("cuda")))
    assert_same_gradients("flex", plan, AttentionParams(0.25, window, softcap), torch.float32, "cuda", 2e-3)


@given(TREES, st.integers(0, 20))
def test_a_subtree_ends_where_nobody_sees_the_segment_any_more(rows: list[list[int]], prefix: int) -> None:
    plan = tree(rows, prefix)
    at = torch.arange(plan.pack.tokens)
    sees = (at[None] <= at[:, None]) & (at[:, None] < compute_subtree_ends(plan.pack)[None])
    assert torch.equal(sees, plan.dense(None))


class Watch:
    """Counts measurements and says how long each path took."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
        self.asked: list[str] = []
        self._seconds = seconds
        monkeypatch.setattr(select, "_measure_seconds", self.measure)
        monkeypatch.setattr(select, "_KNOWN", {})

    def measure(self, name: str, *_: Any) -> float:
        self.asked.append(name)
        return self._seconds[name]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path))
    return tmp_path / "attention.json"


LARGE = tree([[0] * 40, [1] * 40], 250)


def choose() -> str:
    query, key, _ = states(LARGE)
    return select.choose_fastest_backend(list_attention_backends(query, BARE), query, key, LARGE)


def test_it_is_measured_once_and_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(monkeypatch, blocks=1.0, fused=0.5)
    assert [choose(), choose()] == ["fused", "fused"]
    assert watch.asked == ["blocks", "fused"]
    later = Watch(monkeypatch, blocks=0.1, fused=9.0)  # another process, on another day
    assert choose() == "fused"
    assert later.asked == []
    (told,) = json.loads(cache.read_text())
    assert torch.__version__ in told
    assert "float64" in told


def test_noise_does_not_decide(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Watch(monkeypatch, blocks=1.0, fused=0.85)
    assert choose() == "blocks"
    assert set(json.loads(cache.read_text()).values()) == {"blocks"}


def test_what_cannot_be_remembered_is_not_left_to_chance(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()  # in the way of the file
    Watch(monkeypatch, blocks=1.0, fused=0.1)
    assert choose() == "blocks"


@pytest.mark.parametrize("text", ["{", "[]", '{"torch": "fused"}'])
def test_a_file_that_says_nothing_is_written_anew(cache: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    cache.write_text(text)
    Watch(monkeypatch, blocks=1.0, fused=0.1)
    assert choose() == "fused"
    assert "fused" in json.loads(cache.read_text()).values()


def test_the_real_measurement_disturbs_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_KNOWN", {})
    torch.manual_seed(4)
    before = torch.get_rng_state()
    with torch.inference_mode():
        found = run_attention_backend(*states(LARGE, torch.float32), LARGE, BARE)
    assert torch.equal(before, torch.get_rng_state())
    wanted = dense_pack_attention(*states(LARGE, torch.float32), LARGE, BARE)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    (name,) = json.loads(cache.read_text()).values()
    assert name in ("blocks", "fused")


def test_small_packs_are_not_worth_a_measurement(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(monkeypatch)
    small = tree([[0, 1]], 3)
    run_attention_backend(*states(small), small, BARE)
    assert not watch.asked
    assert not cache.exists()


def test_what_no_quick_path_knows_is_computed_plainly() -> None:
    query = states(LARGE)[0]
    assert list_attention_backends(query, AttentionParams(0.3, softcap=2.0)) == ("plain",)
    assert list_attention_backends(query, AttentionParams(0.3, sinks=torch.zeros(4))) == ("plain",)
    assert list_attention_backends(query, AttentionParams(0.3, dropout=0.5)) == ("fused",)
