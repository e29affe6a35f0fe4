"""Every causal language model of the installed transformers is read exactly, packed or padded, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from luthier.core.errors import ModelError
from luthier.models.packing.logprobs import compute_pack_logprobs, detect_forward_mode
from luthier.models.packing.pack import build_pack
from models.architectures import HEADS, LATENT, SIZES, Double, alone, forest, gradients

ROWS = [row for row in forest() if row.targets]
LARGEST = 3_000_000
"""Parameters: configurations that cannot be made small are left out."""
WAYS: dict[str, Any] = {
    **SIZES, **HEADS, **LATENT, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 48,
    "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128, "decoder_layers": 2, "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48, "ffn_dim": 48, "word_embed_proj_dim": 32, "num_experts": 4, "num_local_experts": 4,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "sliding_window": 5, "state_size": 4, "num_layers": 2, "window_size": 5,
    "attention_types": [[["global", "local"], 1]], "rotary_dim": 4, "shared_expert_intermediate_size": 16,
    "intermediate_size_mlp": 48, "mamba_d_state": 4, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1,
    "mamba_chunk_size": 8, "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 4, "n_groups": 1,
    "chunk_size": 8, "num_heads": 8, "mamba_dt_rank": 4, "mamba_d_ssm": 64,
}  # fmt: skip
"""What the sizes of a model are called, here or there."""
ODD = {
    "prophetnet": "transformers answers otherwise when it is given a mask of ones",
    "blt": "reads patches of bytes",
}
NOT_TO_BE_MADE = (
    StrictDataclassError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    RuntimeError,
    ImportError,
    AssertionError,
    IndexError,
)


def small(kind: str) -> Any:
    """A tiny random float64 model of a kind, with layers of two sorts where it has two."""
    usual = AutoConfig.for_model(kind)
    if usual.get_text_config() is not usual:
        pytest.skip("reads more than text")
    names = type(usual).attribute_map
    known = set(usual.to_dict()) | set(names)
    sizes = {name: value for name, value in WAYS.items() if name in known and names.get(name) not in WAYS}
    if layers := list(dict.fromkeys(usual.to_dict().get("layer_types") or ())):
        sizes["layer_types"] = [layers[0], layers[-1]]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(type(usual)(**sizes))
    if model.num_parameters() > LARGEST:
        pytest.skip(f"{model.num_parameters()} parameters")
    model = model.eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    return model


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_it_is_read_as_separate_rows_or_refused(kind: str) -> None:
    if kind in ODD:
        pytest.skip(ODD[kind])
    transformers.logging.set_verbosity_error()
    weights = torch.sin(torch.arange(1, 1 + sum(len(row.targets) for row in ROWS), dtype=torch.float64))
    with Double():
        try:
            model = small(kind)
            wanted = torch.cat([alone(model, row) for row in ROWS])
        except NOT_TO_BE_MADE as error:
            pytest.skip(f"transformers makes no small one of it: {type(error).__name__}: {error}"[:200])
        if _looks_ahead(model):
            with pytest.raises(ModelError, match="sees the tokens that it is to predict"):
                detect_forward_mode(model)
            return
        found = compute_pack_logprobs(model, build_pack(ROWS, 4))
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)
        exact, mine = (gradients(model, (logp * weights).sum()) for logp in (wanted, found))
    for name, gradient in exact.items():
        torch.testing.assert_close(
            mine[name], gradient, atol=1e-8, rtol=1e-8, msg=lambda text, name=name: f"{name}: {text}"
        )


def _looks_ahead(model: Any) -> bool:
    """Whether another last token changes what is said of the first ones."""
    ids = torch.tensor([ROWS[0].ids])
    other = ids.clone()
    other[0, -1] = (other[0, -1] + 1) % 61
    with torch.no_grad():
        one, two = (model(input_ids=some, use_cache=False).logits[0, :-1] for some in (ids, other))
    return bool((one - two).abs().max() > 1e-6)
