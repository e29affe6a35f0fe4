"""What headers tell of layers agrees with the open model, in every family, and with what PEFT adapts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils import transformers_weight_conversion as of_peft
from transformers import AutoModelForCausalLM

from luthier.core.system.process import hide_transformers_output
from luthier.models.describe import describe_model_folder
from luthier.models.load import open_folder
from luthier.models.quiet import silence_peft_warnings
from luthier.models.shapes import ADAPTED_EXPERTS, parameter_sizes
from luthier.tune.techniques.full import FullFineTuning
from luthier.tune.techniques.ia3 import Ia3
from luthier.tune.techniques.layers import PartialFineTuning
from luthier.tune.techniques.lora import Lora
from models.making import other_model

GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 64}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "gemma3_text": {},
    "phi": {},
    "phi3": {},
    "gpt_neox": {},
    "gpt2": GPT,
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "falcon": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": EXPERTS,
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 32},
    "gpt_oss": {"num_local_experts": 4, "head_dim": 8},
    "llama4_text": {"num_local_experts": 2, "intermediate_size_mlp": 64, "head_dim": 8},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_parameters_and_adapters_are_counted_as_they_are(tmp_path: Path, kind: str) -> None:
    place = other_model(tmp_path / "model", kind, tied=kind != "gpt_neox", **FAMILIES[kind])
    told = describe_model_folder(place)
    with hide_transformers_output(), silence_peft_warnings():
        model = AutoModelForCausalLM.from_pretrained(place)
        assert sum(parameter_sizes(told).values()) == sum(one.numel() for one in model.parameters())
        technique = Lora(r=3, use_dora=told.model_type not in ADAPTED_EXPERTS)
        adapted = technique.adapt(model, 1)
        assert technique.trainable(told) == moving(adapted)
        adapted = Ia3().adapt(AutoModelForCausalLM.from_pretrained(place), 1)
        assert Ia3().trainable(told) == moving(adapted)
        assert PartialFineTuning(norms=True).trainable(told) == moving(
            PartialFineTuning(norms=True).adapt(open_folder(place, torch.float32), 1)
        )


def test_experts_that_get_no_adapter_are_told(tmp_path: Path) -> None:
    adapted, bare = (other_model(tmp_path / kind, kind, **FAMILIES[kind]) for kind in ("mixtral", "gpt_oss"))
    assert Lora().warning(describe_model_folder(adapted)) == ""
    assert "the experts, " in Lora().warning(describe_model_folder(bare))
    assert FullFineTuning().warning(describe_model_folder(bare)) == ""


def moving(model: Any) -> int:
    """Numbers that require gradients."""
    return sum(one.numel() for one in model.parameters() if one.requires_grad)


def test_the_families_whose_experts_peft_adapts_are_known() -> None:
    table = of_peft._MODEL_TO_CONVERSION_PATTERN
    assert {kind for kind in table if of_peft._MOE_FUSED_TARGETS.get(table[kind]) and kind.islower()} <= (
        ADAPTED_EXPERTS | {"beam"}
    )
