"""What is read packed equals each row alone through plain transformers, in value and gradient, for every architecture.

Differences are held below 1e-10 in float64: under full tuning and under adapters, by the quick and the plain attention,
by PEFT's own forward and by the one product.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.models.kernels.lora import install_fused_lora, restore_peft_forward
from luthier.models.packing.logprobs import compute_pack_logprobs, detect_forward_mode
from luthier.models.packing.pack import Pack, TokenRow, build_pack, build_packs
from models.architectures import OTHER_HEAD, PACKED, PADDED, Double, adapted, alone, by_flex, forest, gradients, tiny

ROWS = forest()
ONE = build_pack(ROWS, 4)


class Read(NamedTuple):
    """Log-probabilities, and the gradient of a fixed sum of them for every parameter that moves."""

    logp: Tensor
    gradients: dict[str, Tensor]


class Case(NamedTuple):
    """A model, the same with adapters, and what each says of the rows read alone."""

    model: Any
    full: Read
    adapted: Any
    lora: Read


@pytest.fixture(scope="module")
def cases() -> Callable[[str], Case]:
    """Each model is made and read alone once."""
    made: dict[str, Case] = {}

    @torch.enable_grad()  # the first test that asks may take no gradients itself
    def case(name: str) -> Case:
        if name not in made:
            one, other = tiny(name), adapted(tiny(name))
            made[name] = Case(one, all_alone(one), other, all_alone(other))
        return made[name]

    return case


def all_alone(model: Any) -> Read:
    return read(model, lambda m: torch.cat([alone(m, row) for row in ROWS]))


def read(model: Any, reader: Callable[[Any], Tensor]) -> Read:
    """Read and go back; in float64 throughout."""
    with Double():
        logp = reader(model)
        moved = gradients(model, (logp * torch.sin(torch.arange(len(logp), dtype=torch.float64) + 1)).sum())
    return Read(logp.detach(), moved)


def assert_same(found: Read, wanted: Read) -> None:
    torch.testing.assert_close(found.logp, wanted.logp, atol=1e-10, rtol=1e-10)
    assert found.gradients.keys() == wanted.gradients.keys()
    for name, gradient in wanted.gradients.items():
        error = (found.gradients[name] - gradient).norm() / gradient.norm().clamp_min(1e-6)
        assert error <= 1e-10, f"{name}: {float(error):.1e}"


def by_packs(parts: Iterable[Pack]) -> Callable[[Any], Tensor]:
    """Read several packs and put the log-probabilities back into the order of the rows."""

    def reader(model: Any) -> Tensor:
        found = {}
        for part in parts:
            logp = compute_pack_logprobs(model, part)
            found |= {part.keys[row]: logp[part.path == row] for row in range(part.rows)}
        return torch.cat([found[row.key] for row in ROWS])

    return reader


@pytest.mark.matrix
@pytest.mark.parametrize("quick", [True, False], ids=["quick", "plain"])
@pytest.mark.parametrize("name", PACKED)
def test_full_tuning(name: str, quick: bool, cases: Callable[[str], Case]) -> None:
    case = cases(name)
    assert detect_forward_mode(case.model).why == ""
    assert detect_forward_mode(case.model).head is not None
    assert_same(read(case.model, lambda m: compute_pack_logprobs(m, ONE, quick=quick)), case.full)


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "plain"])
@pytest.mark.parametrize("name", PACKED)
def test_adapters(name: str, quick: bool, cases: Callable[[str], Case]) -> None:
    case = cases(name)
    assert_same(read(case.adapted, lambda m: compute_pack_logprobs(m, ONE, quick=quick)), case.lora)
    install_fused_lora(case.adapted)
    for _ in range(2):  # the first pass watches who reads what
        assert_same(read(case.adapted, lambda m: compute_pack_logprobs(m, ONE, quick=quick)), case.lora)
    restore_peft_forward(case.adapted)


@pytest.mark.parametrize("name", ["llama", "mistral-window", "gemma2", "deepseek-v3", "gpt-oss"])
def test_the_attention_of_a_gpu(name: str, cases: Callable[[str], Case]) -> None:
    """FlexAttention, by torch's own definition of it: windows, caps and sinks too."""
    case = cases(name)
    assert detect_forward_mode(case.model).packed
    with by_flex():
        assert_same(read(case.model, lambda m: compute_pack_logprobs(m, ONE)), case.full)
        assert_same(read(case.adapted, lambda m: compute_pack_logprobs(m, ONE)), case.lora)


@pytest.mark.parametrize("name", PADDED)
def test_what_cannot_be_packed_says_why_and_is_padded_with_the_same_result(
    name: str, cases: Callable[[str], Case]
) -> None:
    case = cases(name)
    assert not detect_forward_mode(case.model).packed
    assert detect_forward_mode(case.model).why
    assert_same(read(case.model, lambda m: compute_pack_logprobs(m, ONE)), case.full)
    assert_same(read(case.adapted, lambda m: compute_pack_logprobs(m, ONE)), case.lora)


@pytest.mark.parametrize("name", ["gemma3", "qwen3-moe", "mamba"])
def test_how_rows_are_split_into_packs_changes_nothing(name: str, cases: Callable[[str], Case]) -> None:
    case = cases(name)
    parts = build_packs(ROWS, 30, 4)
    assert len(parts) > 2
    assert_same(read(case.model, by_packs(parts)), case.full)


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe", "gpt-oss"])
def test_experts_computed_in_groups_are_the_same(name: str, cases: Callable[[str], Case]) -> None:
    """The experts' own quick implementation, which transformers takes by itself, in fp32."""
    model = copy.deepcopy(cases(name).model).float()
    model.set_experts_implementation("grouped_mm")
    with torch.no_grad():
        torch.testing.assert_close(
            compute_pack_logprobs(model, ONE), cases(name).full.logp.float(), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe", "gpt-oss"])
def test_losses_that_depend_on_the_batch_do_not_enter(name: str, cases: Callable[[str], Case]) -> None:
    """A mixture's balancing loss and its filler tokens change nothing; an expert that nobody chose has no gradient."""
    model = tiny(name, output_router_logits=True, router_aux_loss_coef=10.0)
    assert_same(read(model, lambda m: compute_pack_logprobs(m, ONE)), cases(name).full)


def test_positions_that_turn_with_the_longest_row_do_not_turn_the_others() -> None:
    """Phi's long factors hold for a whole batch as soon as one row is long: rows are then read alone."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "factor": 6.4}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors}
    model = tiny("phi3", rope_parameters=rope, original_max_position_embeddings=20)
    wanted = all_alone(model)
    assert detect_forward_mode(model).packed
    assert detect_forward_mode(model).turn == 20
    assert_same(read(model, lambda m: compute_pack_logprobs(m, ONE)), wanted)
    short = [row for row in ROWS if len(row.ids) <= 20]
    logp = read(model, lambda m: compute_pack_logprobs(m, build_pack(short, 4))).logp
    assert_same(Read(logp, {}), Read(read(model, lambda m: torch.cat([alone(m, row) for row in short])).logp, {}))


@pytest.mark.parametrize("kind", ["BertConfig", "XLMRobertaConfig"])
def test_a_model_that_looks_ahead_is_refused(kind: str) -> None:
    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = getattr(transformers, kind)(**sizes, num_attention_heads=4)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    with pytest.raises(ModelError, match="sees the tokens that it is to predict"):
        compute_pack_logprobs(model, ONE)


@pytest.mark.parametrize("name", ["llama", "qwen3-moe"])
def test_a_leak_would_be_seen(name: str, cases: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch) -> None:
    """The test itself can fail: causal attention over the pack's tokens, blind to who they belong to."""
    model = cases(name).model
    assert detect_forward_mode(model).packed
    monkeypatch.setattr("luthier.models.packing.logprobs.use_pack_attention", _leaky)
    leaked = read(model, lambda m: compute_pack_logprobs(m, ONE))
    with pytest.raises(AssertionError):
        assert_same(leaked, cases(name).full)


def _leaky(made: Pack, **manner: Any) -> Any:
    from luthier.models.attention import use_pack_attention

    flat = build_pack([TokenRow([*made.ids.tolist(), 1], [0.0] * made.tokens + [1.0])])
    return use_pack_attention(flat, **manner)


@pytest.mark.parametrize("name", ["llama", *OTHER_HEAD])
def test_logits_that_are_not_understood_are_the_models_own(name: str) -> None:
    model = tiny(name)
    if name == "llama":
        model.lm_head = torch.nn.Sequential(model.lm_head, torch.nn.Tanh())
    assert detect_forward_mode(model).head is None
    assert_same(read(model, lambda m: compute_pack_logprobs(m, ONE)), all_alone(model))


def test_the_models_own_attention_is_given_back(cases: Callable[[str], Case]) -> None:
    model = cases("llama").model
    before = copy.deepcopy(vars(model.config))
    compute_pack_logprobs(model, ONE)
    assert vars(model.config) == before


@torch.no_grad()
def test_threads_attend_to_one_model_each_in_its_own_way(cases: Callable[[str], Case]) -> None:
    """One reads a pack and stops between two layers, while the other reads a row through plain transformers."""
    model, ids = cases("llama").model, torch.tensor([ROWS[0].ids])
    wanted, plain = compute_pack_logprobs(model, ONE), model(input_ids=ids).logits
    before, paused, done = copy.deepcopy(vars(model.config)), threading.Event(), threading.Event()

    def pause(*_: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            paused.set()
            assert done.wait(60)

    def packed() -> Tensor:
        with torch.no_grad():
            return compute_pack_logprobs(model, ONE)

    hook = model.model.layers[1].register_forward_pre_hook(pause)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(packed)
        try:
            assert paused.wait(60)
            assert vars(model.config) == before
            assert model.config._attn_implementation == before["_attn_implementation_internal"]
            assert torch.equal(model(input_ids=ids).logits, plain)
            assert torch.equal(compute_pack_logprobs(model, ONE), wanted)
        finally:
            done.set()
        assert torch.equal(found.result(), wanted)
    hook.remove()
    assert vars(model.config) == before
