"""Tiny random models of many architectures, and rows to read with them, packed and each alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.overrides import TorchFunctionMode

from luthier.models.packing.pack import TokenRow
from luthier.models.quiet import silence_peft_warnings

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
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 6,
}
DEEPSEEK = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16}
LINEAR = {
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
ROPE = {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}
Family = tuple[str, dict[str, Any]]
PACKED: dict[str, Family] = {
    "llama": ("LlamaConfig", {"tie_word_embeddings": True}),
    "mistral-window": ("MistralConfig", {"sliding_window": 5}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", HEADS),
    "gemma2": ("Gemma2Config", {**HEADS, "sliding_window": 5, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3TextConfig", {**HEADS, **SLIDING, "query_pre_attn_scalar": 8}),
    "phi3": ("Phi3Config", {}),
    "phi4-partial": ("Phi3Config", {"rope_parameters": {"rope_type": "default", **ROPE}, "tie_word_embeddings": True}),
    "smollm3-nope": ("SmolLM3Config", {"no_rope_layers": [1, 0]}),
    "granite": ("GraniteConfig", {"logits_scaling": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5}),
    "cohere": ("CohereConfig", {"logit_scale": 0.5}),
    "olmo2": ("Olmo2Config", {}),
    "deepseek-v3": ("DeepseekV3Config", {**LATENT, **DEEPSEEK, "first_k_dense_replace": 1}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4}),
    "qwen3-moe": ("Qwen3MoeConfig", {**HEADS, **MOE}),
    "gpt-oss": ("GptOssConfig", {**HEADS, **SLIDING, "num_local_experts": 4}),
    "llama4": (
        "Llama4TextConfig",
        {**HEADS, "num_local_experts": 2, "intermediate_size_mlp": 48, "layer_types": ["full_attention"] * 2},
    ),
    "neox": ("GPTNeoXConfig", {}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 48}),
}
"""Read packed."""
PADDED: dict[str, Family] = {
    "bloom": ("BloomConfig", {"n_layer": 2, "n_head": 4}),
    "falcon-alibi": ("FalconConfig", {"alibi": True, "multi_query": False, "new_decoder_architecture": False}),
    "falcon": ("FalconConfig", {"multi_query": True, "new_decoder_architecture": False}),
    "mamba": ("MambaConfig", {"state_size": 4}),
    "jamba": (
        "JambaConfig",
        {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 4, "mamba_dt_rank": 4}
        | {"use_mamba_kernels": False},
    ),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8}),
    "qwen3-next": (
        "Qwen3NextConfig",
        {**HEADS, **MOE, **LINEAR, "layer_types": ["linear_attention", "full_attention"]}
        | {"shared_expert_intermediate_size": 16},
    ),
}
"""Read in padded rows: a state runs from token to token, or the position is a bias of the attention."""
OTHER_HEAD: dict[str, Family] = {
    "modernbert-decoder": ("ModernBertDecoderConfig", {"layer_types": SLIDING["layer_types"], "local_attention": 6}),
}
"""More than one linear layer stands between hidden states and logits."""
SOME_LINEAR: dict[str, Any] = {
    "mamba": ["in_proj", "x_proj"],  # PEFT refuses out_proj: a kernel reads its weight past the adapter
    "llama4_text": ["q_proj", "v_proj", "down_proj"],  # its router is a linear layer that returns two tensors
}
"""Where PEFT cannot take all linear layers."""


class Double(TorchFunctionMode):
    """Keeps float64 where a model's own code asks for fp32, so that equality can be shown to 1e-10."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        args = tuple(torch.float64 if value is torch.float32 else value for value in args)
        kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in (kwargs or {}).items()}
        return func(*args, **kwargs)


def tiny(name: str, **more: Any) -> Any:
    """A random float64 model of an architecture, with no weight at zero or one."""
    kind, extra = {**PACKED, **PADDED, **OTHER_HEAD}[name]
    sizes = {key: value for key, value in SIZES.items() if not (kind == "GPT2Config" and key.startswith("num_"))}
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**{**sizes, **extra, **more})
    model = transformers.AutoModelForCausalLM.from_config(config, experts_implementation="eager").eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def adapted(model: Any) -> Any:
    """PEFT's model with LoRA beside every linear layer that can have it, its B away from zero."""
    from peft import LoraConfig, get_peft_model

    targets = SOME_LINEAR.get(model.config.model_type, "all-linear")
    torch.manual_seed(3)
    with silence_peft_warnings():
        made = get_peft_model(model, LoraConfig(r=3, target_modules=targets, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return made.double().eval()


def forest() -> list[TokenRow]:
    """Several roots, prefixes within prefixes, a row that begins another one, a branch of one token, a root of one."""
    draw = torch.Generator().manual_seed(1)

    def some(count: int) -> list[int]:
        return torch.randint(3, 61, (count,), generator=draw).tolist()

    system, question = some(12), some(7)
    tails = [[*question, *some(9)], [*question, *some(4)], [*question, *some(12)], some(8), some(1)]
    rows = [
        TokenRow([*system, *tail], [0.0] * 9 + [0.5] * 3 + [1.0] * len(tail), str(at)) for at, tail in enumerate(tails)
    ]
    begun = rows[0].ids[:17]
    rows.append(TokenRow(begun, [0.0] * 10 + [1.0] * 7, "begins another"))
    rows.append(TokenRow([*system[:6], 5, 6, 7], [0.0] * 6 + [1.0] * 3, "parts early"))
    rows += [TokenRow([9, 8, 7], [0.0, 0.0, 1.0], "root"), TokenRow([4, 3], [0.0, 2.0], "root of one")]
    return [*rows, TokenRow([5, 6], [0.0, 0.0], "nothing learnt")]


def alone(model: Any, row: TokenRow) -> Tensor:
    """Log-probabilities of a row's learnt tokens, by transformers and nothing else."""
    logits = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
    found = torch.log_softmax(logits, -1)
    return found[[at - 1 for at in row.targets], [row.ids[at] for at in row.targets]]


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every parameter that has one, from nothing."""
    model.zero_grad()
    loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@contextmanager
def by_flex() -> Iterator[None]:
    """Read packs by FlexAttention as torch defines it, forward and back, on a CPU: the definition that what a GPU
    compiles is held to. Torch refuses the way back there, since nothing compiled goes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
        patch.setattr("torch.nn.attention.flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
        patch.setattr("luthier.models.attention.select.list_attention_backends", lambda *_: ("flex",))
        yield
