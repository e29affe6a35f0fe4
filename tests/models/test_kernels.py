"""The compiled kernels give what fp32 gives, rounded once; where they cannot be had or are wrong, torch computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.gemma.modeling_gemma import GemmaConfig, GemmaMLP
from transformers.models.gpt_oss.modeling_gpt_oss import apply_rotary_pos_emb as halves
from transformers.models.gptj import modeling_gptj as gptj
from transformers.models.llama.modeling_llama import LlamaMLP, apply_rotary_pos_emb

from luthier.models.kernels import calls, gates, rotary
from luthier.models.kernels.calls import (
    LayerOpKernels,
    describe_kernels,
    disable_kernels,
    get_kernel_names,
    get_layer_op_kernels,
)
from luthier.models.kernels.compile import IN_ANY_ORDER, CompiledLibrary, compile_library, find_c_compiler
from luthier.models.kernels.trial import passes_kernel_trial
from luthier.models.packing.head import LogitTransform, OutputHead
from luthier.models.packing.logprobs import compute_pack_logprobs, detect_forward_mode
from luthier.models.packing.pack import TokenRow, build_pack

LIKE = torch.zeros(1, dtype=torch.bfloat16)


@pytest.fixture
def kernels() -> LayerOpKernels:
    found = get_layer_op_kernels(LIKE)
    if found is None:
        pytest.skip(f"no kernels here (compiler: {find_c_compiler()})")
    return found


@pytest.fixture
def one_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache with nothing in it, and a process that has looked for no kernels yet."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path))
    calls._kernels.cache_clear()
    yield tmp_path
    calls._kernels.cache_clear()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def near(found: Tensor, wanted: Tensor, bound: float = 3e-3) -> None:
    assert found.dtype == torch.bfloat16
    assert found.shape == wanted.shape
    assert (found.float() - wanted).norm() <= bound * wanted.norm()


def slopes(function: Callable[..., Tensor], grad: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
    inputs = [one.float().requires_grad_() for one in given]
    return torch.autograd.grad(function(*inputs), inputs, grad.float())


@pytest.mark.parametrize("width", [1, 15, 16, 64, 100, 577])
def test_norms(kernels: LayerOpKernels, width: int) -> None:
    def exact(x: Tensor, weight: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight

    x, grad, weight = draw(1, 7, 2 * width)[..., :width], draw(1, 7, width, seed=1), draw(width, seed=2)
    out, scale = kernels.norm(x, weight, 1e-5)
    near(out, exact(x.float(), weight.float()))
    near(kernels.norm_back(grad, x, weight, scale), slopes(exact, grad, x, weight)[0], 6e-3 if width > 1 else 0.2)


@pytest.mark.parametrize("width", [1, 15, 48, 101])
def test_gates(kernels: LayerOpKernels, width: int) -> None:
    def exact(gate: Tensor, up: Tensor) -> Tensor:
        return torch.nn.functional.silu(gate) * up

    gate, up = (8 * draw(2, 5, 2 * width)).chunk(2, -1)
    grad = draw(2, 5, width, seed=3)
    near(kernels.gated(gate, up), exact(gate.float(), up.float()))
    found = kernels.gated_back(grad, gate, up)
    for one, wanted in zip(found, slopes(exact, grad, gate, up), strict=True):
        near(one, wanted)
    assert found[0].data_ptr() + width * 2 == found[1].data_ptr()  # one product takes both as they lie


@pytest.mark.parametrize("width", [1, 16, 35])
@pytest.mark.parametrize("value", [-1e4, -300.0, -87.0, 87.0, 1e4])
def test_gates_wide_open_and_shut(kernels: LayerOpKernels, value: float, width: int) -> None:
    gate, one = torch.full((2, width), value).bfloat16(), torch.ones(2, width).bfloat16()
    wanted = max(float(gate[0, 0]), 0.0)
    assert kernels.gated(gate, one).float().numpy() == pytest.approx(wanted, rel=1e-2, abs=1e-30)
    for slope in kernels.gated_back(one, gate, one):
        assert slope.isfinite().all()
    d_gate, d_up = kernels.gated_back(one, gate, one)
    assert d_gate.float().numpy() == pytest.approx(float(value > 0), abs=1e-30)
    assert d_up.float().numpy() == pytest.approx(wanted, rel=1e-2, abs=1e-30)


def test_gates_of_what_is_no_number_stay_none(kernels: LayerOpKernels) -> None:
    gate = torch.full((1, 20), float("nan")).bfloat16()
    one = torch.ones(1, 20).bfloat16()
    assert kernels.gated(gate, one).isnan().all()
    assert all(slope.isnan().all() for slope in kernels.gated_back(one, gate, one))


@pytest.mark.parametrize(("lines", "groups", "keys"), [(1, 1, 1), (5, 3, 5), (9, 2, 40), (33, 3, 130)])
def test_shares_and_what_may_not_be_seen(kernels: LayerOpKernels, lines: int, groups: int, keys: int) -> None:
    scores = 4 * draw(2, lines * groups, keys)
    hidden = torch.ones(lines, lines).triu(1).bool()
    bias = torch.zeros(lines, lines).masked_fill_(hidden, float("-inf")).bfloat16()
    wanted = scores.float()
    wanted.view(2, lines, groups, keys)[..., keys - lines :].add_(bias.float()[:, None])
    wanted = torch.softmax(wanted, -1)
    found = kernels.softmax_(scores.clone(), bias, groups)
    near(found, wanted)
    assert bool((found[wanted == 0] == 0).all())
    grad, along = draw(2, lines * groups, keys, seed=4), draw(2, lines * groups, 1, seed=5).float()
    near(kernels.softmax_back_(grad.clone(), found, along), (grad.float() - along) * found.float())


def test_angles(kernels: LayerOpKernels) -> None:
    x = draw(1, 11, 6, 32)[:, :, 1:5].transpose(1, 2)
    cos, sin, grad = draw(11, 32, seed=1), draw(11, 32, seed=2), draw(1, 4, 11, 32, seed=3)

    def exact(x: Tensor) -> Tensor:
        return apply_rotary_pos_emb(x, x, cos.float()[None], sin.float()[None])[0]

    near(kernels.rotate(x, cos, sin), exact(x.float()))
    near(kernels.rotate(grad, cos, sin, back=True), slopes(exact, grad, x)[0])


@pytest.mark.parametrize("words", [2, 15, 256, 257, 1000])
def test_chosen_tokens_and_how_their_logits_move_them(kernels: LayerOpKernels, words: int) -> None:
    logits, up = 6 * draw(9, words), draw(9, seed=1).float()
    logits[0, 0], logits[1, -1] = float("-inf"), 300
    targets = torch.arange(9) % words
    targets[2] = logits[2].argmax()
    whole = torch.log_softmax(logits.float().requires_grad_(), -1)
    wanted = whole.gather(1, targets[:, None])[:, 0].detach()
    onehot = torch.nn.functional.one_hot(targets, words)
    moves = onehot - whole.detach().exp()
    first = torch.zeros(9, dtype=torch.bool)
    untouched = logits.clone()
    torch.testing.assert_close(kernels.chosen_(untouched, targets, first, slopes=False), wanted)
    assert torch.equal(untouched, logits)
    assert torch.equal(first, wanted >= whole.amax(-1))
    for by in (None, up):
        found = logits.clone()
        torch.testing.assert_close(kernels.chosen_(found, targets, None, slopes=True, by=by), wanted)
        near(found, moves if by is None else moves * by[:, None])


def test_a_token_without_a_logit_is_refused_and_what_is_no_number_stays_none(kernels: LayerOpKernels) -> None:
    for strange in (-1, 20):
        with pytest.raises(IndexError, match="from 0 to 19"):
            kernels.chosen_(draw(2, 20), torch.tensor([3, strange]), None, slopes=True)
    logits = draw(2, 20)
    logits[1, 4] = float("nan")
    found = kernels.chosen_(logits, torch.tensor([3, 3]), None, slopes=True)
    assert found.isnan().tolist() == [False, True]
    assert logits.isnan().any(-1).tolist() == [False, True]
    assert kernels.chosen_(draw(0, 20), torch.zeros(0, dtype=torch.long), None, slopes=True).shape == (0,)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_a_head_with_kernels_is_as_one_without(
    kernels: LayerOpKernels, trained: bool, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.models.packing.head.PIECE_BYTES", 0)  # sixteen rows a piece
    linear = torch.nn.Linear(24, 300, bias=bias).bfloat16().requires_grad_(trained)
    calls: list[int] = []

    def noted(self: LayerOpKernels, *given: Any, **more: Any) -> Tensor:
        calls.append(1)
        return real(self, *given, **more)

    real = LayerOpKernels.chosen_
    monkeypatch.setattr(LayerOpKernels, "chosen_", noted)
    targets, up = torch.arange(37), draw(37, seed=2).float()

    def found() -> list[Tensor]:
        states, first = draw(37, 24).requires_grad_(), torch.zeros(37, dtype=torch.bool)
        logps = OutputHead(linear, LogitTransform()).logprobs(states, targets, precise=False, first=first)
        leaves = [states, *(linear.parameters() if trained else ())]
        return [
            first.float(),
            logps.detach(),
            *(one.float() for one in torch.autograd.grad((logps * up).sum(), leaves)),
        ]

    quick = found()
    assert len(calls) >= 3, "the kernels take part in each piece"
    calls.clear()
    with disable_kernels():
        plain = found()
    assert not calls
    for one, other in zip(quick, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-3)


def test_the_number_of_threads_changes_no_bit(kernels: LayerOpKernels) -> None:
    x, weight = draw(700, 200), draw(200)
    one = kernels.norm(x, weight, 1e-5)[0], kernels.gated(x, x)
    torch.set_num_threads(2)
    two = kernels.norm(x, weight, 1e-5)[0], kernels.gated(x, x)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_kernel_that_is_wrong_is_never_used(kernels: LayerOpKernels, one_cache: Path) -> None:
    class Wrong(LayerOpKernels):
        def gated(self, gate: Tensor, up: Tensor) -> Tensor:
            return super().gated(gate, up) * 1.1

    tried: list[CompiledLibrary] = []

    def wrong(made: CompiledLibrary) -> bool:
        tried.append(made)
        return passes_kernel_trial(Wrong(made))

    assert compile_library("bf16.c", wrong, *IN_ANY_ORDER) is None
    assert compile_library("bf16.c", wrong, *IN_ANY_ORDER) is None
    assert len(tried) == 1  # it is remembered
    assert get_layer_op_kernels(LIKE) is None


def test_without_a_compiler_torch_computes(one_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false")
    assert compile_library("bf16.c", lambda _: True) is None
    monkeypatch.setenv("CC", "no-such-compiler")
    assert compile_library("bf16.c", lambda _: True) is None
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(one_cache))
    assert find_c_compiler() is None
    assert get_layer_op_kernels(LIKE) is None
    with disable_kernels():  # others may have been opened before
        assert "C compiler" in describe_kernels(torch.nn.Linear(2, 2, dtype=torch.bfloat16))
        assert not describe_kernels(torch.nn.Linear(2, 2))


def test_other_numbers_and_a_while_without_are_left_to_torch(kernels: LayerOpKernels) -> None:
    assert get_layer_op_kernels(LIKE.float()) is None
    with disable_kernels():
        assert get_layer_op_kernels(LIKE) is None
    assert get_layer_op_kernels(LIKE) is kernels


def llama(dtype: torch.dtype = torch.bfloat16) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    return LlamaForCausalLM(config).bfloat16().to(dtype)


def read(model: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probabilities and gradients of rows that share a prefix."""
    shared, tails = [3 + at % 50 for at in range(40)], [[5, 9, 2, 7], [5, 8, 1], [11, 4, 4, 6, 30]]
    rows = [TokenRow([*shared, *tail], [0.0] * len(shared) + [1.0] * len(tail)) for tail in tails]
    model.zero_grad()
    found = compute_pack_logprobs(model, build_pack(rows))
    found.sum().backward()
    return found.detach(), {name: one.grad.float() for name, one in model.named_parameters() if one.grad is not None}


def test_a_model_reads_and_learns_as_nearly_to_fp32_as_with_torch(kernels: LayerOpKernels) -> None:
    exact, slopes_exact = read(llama(torch.float32))
    model = llama()
    detect_forward_mode(model)
    assert get_kernel_names(model).startswith(kernels.name)
    assert isinstance(model.model.layers[0].mlp.forward, gates._Forward)
    found, slopes_found = read(model)
    with disable_kernels():
        plain, slopes_plain = read(model)
    assert not torch.equal(found, plain)  # the kernels took part
    assert (found - exact).norm() <= 1.2 * (plain - exact).norm() + 1e-3
    assert slopes_found.keys() == slopes_exact.keys()
    for name, slope in slopes_exact.items():
        far = (slopes_plain[name] - slope).norm()
        assert (slopes_found[name] - slope).norm() <= 1.3 * far + 1e-2 * slope.norm(), name


def test_other_gates_and_other_angles_are_left_alone(kernels: LayerOpKernels) -> None:
    config = GemmaConfig(hidden_size=32, intermediate_size=24)
    assert gates.install_gated_mlp(GemmaMLP(config).bfloat16()) == 0
    assert gates.install_gated_mlp(LlamaMLP(LlamaConfig(hidden_size=32, intermediate_size=24))) == 0
    assert gates.install_gated_mlp(LlamaMLP(LlamaConfig(hidden_size=32, intermediate_size=24)).bfloat16()) == 1

    def interleaved(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        turned = [torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2) for x in (q, k)]
        return q * cos[:, None] + turned[0] * sin[:, None], k * cos[:, None] + turned[1] * sin[:, None]

    for other in (interleaved, halves, gptj.apply_rotary_pos_emb):
        assert not rotary._is_plain(other)
    assert rotary._is_plain(apply_rotary_pos_emb)


def test_several_rows_and_fp32_turn_by_the_architectures_own_function(kernels: LayerOpKernels) -> None:
    own = apply_rotary_pos_emb._own if isinstance(apply_rotary_pos_emb, rotary._Turning) else apply_rotary_pos_emb
    for rows, dtype in ((2, torch.bfloat16), (1, torch.float32)):
        q, k = draw(rows, 4, 5, 16).to(dtype), draw(rows, 2, 5, 16).to(dtype)
        cos, sin = draw(rows, 5, 16, seed=1).to(dtype), draw(rows, 5, 16, seed=2).to(dtype)
        for one, other in zip(rotary._Turning(own)(q, k, cos, sin), own(q, k, cos, sin), strict=True):
            assert torch.equal(one, other)
