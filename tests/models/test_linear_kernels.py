"""Layers with adapters by compiled kernels: as near to float64 as torch, on any count of threads the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.models.kernels import linear_ops, lora
from luthier.models.kernels.calls import disable_kernels
from luthier.models.kernels.compile import IN_ANY_ORDER, compile_library, find_c_compiler
from luthier.models.kernels.linear_ops import AdapterSlice, LinearKernels, get_linear_kernels, supports_linear
from luthier.models.kernels.lora import install_fused_lora
from luthier.models.kernels.trial import passes_lora_trial
from luthier.models.quiet import silence_peft_warnings

KERNELS = get_linear_kernels()
pytestmark = pytest.mark.skipif(
    KERNELS is None, reason=f"no kernels for linear layers here (compiler: {find_c_compiler()})"
)


@pytest.fixture
def kernels() -> LinearKernels:
    found = get_linear_kernels()
    assert found is not None
    return found


@pytest.fixture
def one_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache with nothing in it, and a process that has looked for no kernels yet."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path))
    linear_ops._kernels.cache_clear()
    yield tmp_path
    linear_ops._kernels.cache_clear()


class Case(NamedTuple):
    """Layers that read one input, and what flows back to them; around everything lies what is no number."""

    x: Tensor
    down: Tensor
    joint: Tensor
    parts: tuple[AdapterSlice, ...]
    ups: list[Tensor]
    grads: list[Tensor]


def among_nans(one: Tensor) -> Tensor:
    """The same numbers with NaN in the rows and columns around them."""
    wide = torch.full((one.shape[0] + 9, one.shape[1] + 32), float("nan"), dtype=one.dtype)
    wide[: one.shape[0], : one.shape[1]] = one
    return wide[: one.shape[0], : one.shape[1]]


def case(tokens: int, width: int, outs: Sequence[int], rank: int) -> Case:
    draws = torch.Generator().manual_seed(tokens)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draws).bfloat16()

    joint = torch.zeros(sum(outs), width + rank * len(outs), dtype=torch.bfloat16)
    joint[:, :width] = draw(sum(outs), width) / width**0.5
    parts, ups, at = [], [], 0
    for place, out in enumerate(outs):
        parts.append(AdapterSlice(slice(at, at + out), slice(place * rank, (place + 1) * rank), 2.0))
        ups.append(draw(out, rank) / 8)
        joint[at : at + out, width + place * rank : width + (place + 1) * rank] = ups[-1] * 2
        at += out
    down = draw(rank * len(outs), width) / width**0.5
    grads = [among_nans(draw(tokens, out)) for out in outs]
    return Case(among_nans(draw(tokens, width)), down, among_nans(joint), tuple(parts), ups, grads)


def computed(kernels: LinearKernels, told: Case, *, through: bool = True) -> list[Tensor]:
    """Outputs, and gradients of the input, of A and of each B."""
    out, inside = kernels.forward(told.x, told.down, told.joint, told.parts)
    d_x, d_down, d_ups = kernels.back(told.grads, told.x, told.down, told.joint, told.parts, inside, through=through)
    return [out, *([] if d_x is None else [d_x]), d_down, *d_ups]


@torch.enable_grad()
def by_torch(told: Case, dtype: torch.dtype) -> list[Tensor]:
    inputs = [one.detach().to(dtype).requires_grad_() for one in (told.x, told.down, *told.ups)]
    x, down, *ups = inputs
    outs = [
        x @ told.joint[part.out, : x.shape[1]].to(dtype).t() + part.scale * (x @ down[part.rank].t()) @ up.t()
        for part, up in zip(told.parts, ups, strict=True)
    ]
    return [torch.cat(outs, 1), *torch.autograd.grad(outs, inputs, [grad.to(dtype) for grad in told.grads])]


SHAPES = [
    (33, 64, [64, 32, 32], 8), (40, 32, [32], 64), (257, 96, [160, 96], 16), (129, 704, [32], 40), (700, 608, [64], 8),
    (90, 64, [11008], 8),
]  # fmt: skip


@pytest.mark.parametrize(("tokens", "width", "outs", "rank"), SHAPES)
def test_they_are_as_near_to_float64_as_torch(
    kernels: LinearKernels, tokens: int, width: int, outs: list[int], rank: int
) -> None:
    told = case(tokens, width, outs, rank)
    wanted, torchs, ours = by_torch(told, torch.float64), by_torch(told, torch.bfloat16), computed(kernels, told)
    for one, theirs, exact in zip(ours, torchs, wanted, strict=True):
        assert one.isfinite().all()
        assert (one.double() - exact).norm() <= 1.02 * (theirs.double() - exact).norm()


@pytest.mark.parametrize(("tokens", "width", "outs", "rank"), SHAPES[:4])
def test_threads_change_no_bit(kernels: LinearKernels, tokens: int, width: int, outs: list[int], rank: int) -> None:
    told, before = case(tokens, width, outs, rank), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(computed(kernels, told))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, *others in zip(*found, strict=True) for other in others)


def test_a_token_is_read_alike_whatever_stands_beside_it(kernels: LinearKernels) -> None:
    told = case(100, 64, [64], 8)
    whole, _ = kernels.forward(told.x, told.down, told.joint, told.parts)
    some, _ = kernels.forward(told.x[37:80], told.down, told.joint, told.parts)
    assert torch.equal(whole[37:80], some)


def test_where_nothing_below_learns_the_rest_is_the_same(kernels: LinearKernels) -> None:
    told = case(50, 64, [32, 64], 16)
    out, _, *rest = computed(kernels, told)
    again, *others = computed(kernels, told, through=False)
    assert torch.equal(out, again)
    assert all(torch.equal(one, other) for one, other in zip(rest, others, strict=True))


@pytest.mark.parametrize(
    ("x", "out", "rank"),
    [
        (torch.ones(40, 64), 32, 8),
        (torch.ones(31, 64).bfloat16(), 32, 8),
        (torch.ones(40, 48).bfloat16(), 32, 8),
        (torch.ones(64, 40).bfloat16().t(), 32, 8),
        (torch.ones(40, 64).bfloat16(), 33, 8),
        (torch.ones(40, 64).bfloat16(), 32, 4),
    ],
    ids=["fp32", "few rows", "width", "turned", "outputs", "rank"],
)
def test_what_they_cannot_compute_is_left_to_torch(x: Tensor, out: int, rank: int) -> None:
    assert supports_linear(torch.ones(40, 64).bfloat16(), [AdapterSlice(slice(0, 32), slice(0, 8), 1.0)])
    assert not supports_linear(x, [AdapterSlice(slice(0, out), slice(0, rank), 1.0)])


def adapted(**settings: Any) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=37, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attention_bias=True, tie_word_embeddings=False,
    )  # fmt: skip
    told = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **{"r": 8, **settings})
    with silence_peft_warnings():
        made = get_peft_model(LlamaForCausalLM(config).bfloat16(), told)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return made


def gradients(model: Any) -> dict[str, Tensor]:
    model.zero_grad()
    ids = torch.arange(80).remainder(37).reshape(2, 40)
    torch.log_softmax(model(input_ids=ids).logits.double(), -1)[..., 3].sum().backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def test_a_whole_model_learns_what_it_learns_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = adapted(use_rslora=True), []
    install_fused_lora(model)
    for _ in range(2):
        with disable_kernels():
            wanted = gradients(model)
    monkeypatch.setattr(lora, "get_linear_kernels", lambda: calls.append(1) or get_linear_kernels())
    found = gradients(model)
    assert len(calls) == 8, "q, k and v together, o, gate and up together, down, in two layers"
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert (gradient - wanted[name]).norm() <= 0.03 * wanted[name].norm(), name


def test_layers_that_are_read_apart_read_their_own_rows() -> None:
    model = adapted()
    install_fused_lora(model)
    for _ in range(2):
        gradients(model)
    attention = model.get_base_model().model.layers[0].self_attn
    x = torch.randn(40, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    for layer in (attention.v_proj, attention.k_proj):
        wanted = type(layer).forward(layer, x)
        assert (layer(x) - wanted).norm() <= 0.01 * wanted.norm()


def test_kernels_that_are_wrong_or_slow_are_never_used(
    kernels: LinearKernels, one_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(LinearKernels):
        def forward(self, *given: Any) -> tuple[Tensor, Tensor]:
            out, inside = super().forward(*given)
            return out * 1.1, inside

    assert compile_library("linear.c", lambda made: passes_lora_trial(Wrong(made)), *IN_ANY_ORDER) is None
    assert get_linear_kernels() is None
    monkeypatch.setattr("luthier.models.kernels.trial._measure_seconds", lambda _: 1.0)
    assert not passes_lora_trial(kernels)
