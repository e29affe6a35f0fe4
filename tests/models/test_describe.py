"""Descriptions agree with transformers' own counts; memory arithmetic agrees with what autograd keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from luthier.core.errors import ModelError
from luthier.models.describe import (
    describe_model_folder,
    describe_template,
    estimate_activation_bytes,
    estimate_training_memory,
)
from models.making import other_model
from tiny_models import TEMPLATE, tiny_model


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral", "gemma3_text", "gpt_neox"])
@pytest.mark.parametrize("tied", [True, False])
def test_counts_agree_with_transformers(tmp_path: Path, kind: str, tied: bool) -> None:
    from transformers import AutoModelForCausalLM

    place = other_model(tmp_path / "model", kind, tied=tied)
    told = describe_model_folder(place)
    model = AutoModelForCausalLM.from_pretrained(place)
    assert told.parameters == model.num_parameters()
    assert told.tied is tied
    assert told.embedding_parameters == model.get_input_embeddings().weight.numel()
    assert told.architecture == type(model).__name__
    assert (told.layers, told.hidden_size, told.vocab, told.context, told.dtype) == (2, 32, 400, 512, "float32")
    assert told.weight_bytes == 4 * told.parameters
    assert told.as_json()["template"]["family"] == "chatml"


def test_a_tied_head_that_lies_in_the_file_counts_once(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    place = tiny_model(tmp_path / "model")
    before = describe_model_folder(place).parameters
    weights = load_file(place / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    assert describe_model_folder(place).parameters == before


@pytest.mark.parametrize(
    ("source", "family"),
    [
        (TEMPLATE, "chatml"),
        ("<|start_header_id|>{{ m.role }}<|end_header_id|>", "llama3"),
        ("<start_of_turn>user", "gemma"),
        ("[INST] {{ m }} [/INST]", "mistral"),
        ("[INST] <<SYS>>{{ m }}<</SYS>> [/INST]", "llama2"),
        ("<|user|>\n{{ m }}<|end|>", "phi3"),
        ("{{ m }}", "custom"),
    ],
)
def test_templates_are_named_by_their_marker(source: str, family: str) -> None:
    told = describe_template(source)
    assert told is not None
    assert told.family == family
    assert not told.generation_marks


def test_generation_marks_tools_and_default_system_message() -> None:
    told = describe_template("{% if messages[0]['role'] != 'system' %}S{% endif %}{%- generation -%}{{ tools }}")
    assert told is not None
    assert (told.generation_marks, told.tools, told.system_default) == (True, True, True)
    assert describe_template(None) is None


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="no safetensors"):
        describe_model_folder(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        describe_model_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("tokens", [64, 256])
def test_activations_are_near_what_autograd_keeps(tmp_path: Path, kind: str, tokens: int) -> None:
    """Counted by hooks on saved tensors: each storage once, parameters and the head's own left out."""
    from transformers import AutoModelForCausalLM

    place = other_model(tmp_path / "model", kind)
    model = AutoModelForCausalLM.from_pretrained(place, attn_implementation="sdpa")
    owned = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in owned:
            kept[place] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.model(torch.arange(tokens)[None] % 400).last_hidden_state
    del hidden
    predicted = estimate_activation_bytes(describe_model_folder(place), tokens, 4)
    assert 0.7 < predicted / sum(kept.values()) < 1.3


def test_memory_grows_with_what_moves(tmp_path: Path) -> None:
    told = describe_model_folder(tiny_model(tmp_path / "model"))
    lora = estimate_training_memory(told, "lora", 1000, 512)
    full = estimate_training_memory(told, "full", told.parameters, 512)
    assert lora.total < full.total
    assert full.weights + full.gradients + full.optimizer == 16 * told.parameters
    assert lora.weights == told.weight_bytes + 4000
    assert estimate_training_memory(told, "lora", 1000, 512, head_rows=64).logits * 8 == lora.logits


def test_describing_loads_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, luthier.models.describe, luthier.models.catalog, luthier.models.steps.base;"
        "from luthier.core.component import components_by_kind; from luthier.models.source import ModelSource;"
        "print(sorted(components_by_kind(ModelSource)), 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['endpoint', 'folder', 'gguf', 'hub', 'peft', 'wheel'] False False"
