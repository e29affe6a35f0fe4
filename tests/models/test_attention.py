"""Packed attention equals separate rows, in value and gradient, for every family that goes through the registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from luthier.models.attention.blocks import block_attention
from luthier.models.attention.plain import Manner, plain_attention
from luthier.models.attention.plan import Plan
from luthier.models.logprobs import logprobs, reading
from luthier.models.pack import Row, pack

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADS = {"head_dim": 8}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"tie_word_embeddings": True}),
    "mistral-window": ("MistralConfig", {"sliding_window": 5}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", HEADS),
    "gemma2": ("Gemma2Config", {**HEADS, "sliding_window": 5, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3TextConfig", {**HEADS, **SLIDING, "query_pre_attn_scalar": 8}),
    "phi3": ("Phi3Config", {}),
    "smollm3": ("SmolLM3Config", {}),
    "granite": ("GraniteConfig", {"logits_scaling": 3.0, "attention_multiplier": 0.2}),
    "cohere": ("CohereConfig", {"logit_scale": 0.5}),
    "olmo2": ("Olmo2Config", {}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4}),
    "qwen3-moe": ("Qwen3MoeConfig", {**HEADS, **MOE}),
    "gpt-oss": ("GptOssConfig", {**HEADS, **SLIDING, "num_local_experts": 4}),
    "neox": ("GPTNeoXConfig", {}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 48}),
}
PADDED: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": ("BloomConfig", {"n_layer": 2, "n_head": 4}),
    "mamba": ("MambaConfig", {"state_size": 4}),
    "qwen3-next": (
        "Qwen3NextConfig",
        {**HEADS, **MOE, "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 2}
        | {"linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
        | {"shared_expert_intermediate_size": 16},
    ),
}


class Double(TorchFunctionMode):
    """Keeps float64 where a model's own code asks for fp32, so that equality can be shown to 1e-10."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        args = tuple(torch.float64 if value is torch.float32 else value for value in args)
        kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in (kwargs or {}).items()}
        return func(*args, **kwargs)


def tiny(family: tuple[str, dict[str, Any]]) -> Any:
    name, extra = family
    torch.manual_seed(0)
    sizes = {key: value for key, value in SIZES.items() if not (name == "GPT2Config" and key.startswith("num_"))}
    config = getattr(transformers, name)(**{**sizes, **extra})
    model = transformers.AutoModelForCausalLM.from_config(config, experts_implementation="eager").eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def rows() -> list[Row]:
    torch.manual_seed(1)
    shared = torch.randint(3, 61, (17,)).tolist()
    made = []
    for length in (9, 4, 12, 1):
        tail = torch.randint(3, 61, (length,)).tolist()
        ids = [*shared, *tail]
        made.append(Row(ids, [0.0] * 15 + [0.5] * 2 + [1.0] * (len(ids) - 17)))
    made.append(Row([*shared[:6], 5, 6, 7], [0.0] * 6 + [1.0] * 3))
    made.append(Row([9, 8, 7], [0.0, 0.0, 1.0]))
    return made


def alone(model: Any, row: Row) -> Tensor:
    logits = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
    found = torch.log_softmax(logits, -1)
    return torch.stack([found[at - 1, row.ids[at]] for at in row.targets])


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_as_alone(model: Any, read: Callable[[Any], Tensor], given_rows: Sequence[Row]) -> None:
    with Double():
        _assert_as_alone(model, read, given_rows)


def _assert_as_alone(model: Any, read: Callable[[Any], Tensor], given_rows: Sequence[Row]) -> None:
    wanted = torch.cat([alone(model, row) for row in given_rows])
    weights = torch.sin(torch.arange(len(wanted), dtype=torch.float64) + 1)
    wanted_gradients = gradients(model, (wanted * weights).sum())
    found = read(model)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)
    found_gradients = gradients(model, (found * weights).sum())
    assert found_gradients.keys() == wanted_gradients.keys()
    for name, gradient in wanted_gradients.items():
        torch.testing.assert_close(
            found_gradients[name], gradient, atol=1e-10, rtol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("quick", [True, False], ids=["blocks", "dense"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_row_reads_as_if_alone(family: str, quick: bool) -> None:
    model = tiny(FAMILIES[family])
    assert reading(model).why == ""
    assert reading(model).head is not None
    assert_as_alone(model, lambda m: logprobs(m, pack(rows(), 4), quick=quick), rows())


@pytest.mark.parametrize("family", PADDED)
def test_what_cannot_be_packed_is_padded_with_the_same_result(family: str) -> None:
    model = tiny(PADDED[family])
    assert not reading(model).packed
    assert reading(model).why
    assert_as_alone(model, lambda m: logprobs(m, pack(rows(), 4)), rows())


def test_logits_that_are_not_understood_are_the_models_own() -> None:
    model = tiny(FAMILIES["llama"])
    model.lm_head = torch.nn.Sequential(model.lm_head, torch.nn.Tanh())
    assert reading(model).head is None
    assert_as_alone(model, lambda m: logprobs(m, pack(rows(), 4)), rows())


def test_the_models_own_attention_is_given_back() -> None:
    model = tiny(FAMILIES["llama"])
    before = model.config._attn_implementation
    logprobs(model, pack(rows()))
    assert model.config._attn_implementation == before


LENGTHS = st.lists(st.integers(1, 150), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 150), LENGTHS, st.sampled_from([None, 3, 40]), st.sampled_from([1, 2]), st.booleans())
def test_blocks_equal_the_dense_mask(
    prefix: int, tails: list[int], window: int | None, groups: int, keep: bool
) -> None:
    torch.manual_seed(prefix)
    made = pack(
        [
            Row([*([1] * prefix), *([2 + at] * tail), 9], [0.0] * (prefix + tail) + [1.0])
            for at, tail in enumerate(tails)
        ]
    )
    plan = Plan(made)
    states = [torch.randn(1, heads, made.tokens, 4, dtype=torch.float64) for heads in (2 * groups, 2, 2)]
    up = torch.randn(1, made.tokens, 2 * groups, 4, dtype=torch.float64)
    results = []
    for attend in (
        lambda q, k, v: block_attention(q, k, v, plan, 0.3, window),
        lambda q, k, v: plain_attention(q, k, v, plan, Manner(0.3, window)),
    ):
        leaves = [state.clone().requires_grad_() for state in states]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("luthier.models.attention.blocks.KEEP_BYTES", (1 << 28) if keep else 0)
            out = attend(*leaves)
            out.backward(up)
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


TREES = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=30), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(TREES, st.integers(0, 60), st.sampled_from([None, 2, 9]), st.sampled_from([6, 20, 96]))
def test_blocks_of_subtrees_equal_the_dense_mask(
    rows: list[list[int]], prefix: int, window: int | None, short: int
) -> None:
    torch.manual_seed(prefix)
    made = pack([Row([*([1] * prefix), *ids, 9], [0.0] * (prefix + len(ids)) + [1.0]) for ids in rows], share_from=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("luthier.models.attention.plan.SHORT", short)
        plan = Plan(made)
    query, key, value = (torch.randn(1, heads, made.tokens, 4, dtype=torch.float64) for heads in (4, 2, 2))
    found = block_attention(query, key, value, plan, 0.3, window)
    torch.testing.assert_close(found, plain_attention(query, key, value, plan, Manner(0.3, window)), atol=1e-11, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_blocks_are_as_near_to_float64_as_the_dense_mask_is(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    made = pack([Row([*([1] * 90), *([2 + at] * 30), 9], [0.0] * 120 + [1.0]) for at in range(4)])
    plan = Plan(made)
    query, key, value = (torch.randn(1, heads, made.tokens, 16, dtype=torch.float64) for heads in (6, 2, 2))
    exact = plain_attention(query, key, value, plan, Manner(0.25))
    low = [state.to(dtype) for state in (query, key, value)]
    dense = (plain_attention(*low, plan, Manner(0.25)).double() - exact).norm()
    blocks = (block_attention(*low, plan, 0.25, None).double() - exact).norm()
    assert blocks <= 1.5 * dense
