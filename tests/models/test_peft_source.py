"""Adapters that PEFT wrote elsewhere: merged as PEFT merges them, or refused with the reason."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthier.core.errors import ModelError
from luthier.core.store import Store
from luthier.models.catalog import resolve_model_source
from luthier.models.load import open_folder
from luthier.models.quiet import silence_peft_warnings
from luthier.models.sources.endpoint import EndpointModelSource
from luthier.models.sources.folder import FolderModelSource
from luthier.models.sources.peft import PeftModelSource
from models.making import make_base
from tiny_models import tiny_model

CONFIGS: dict[str, Any] = {
    "lora": peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    "rslora": peft.LoraConfig(r=4, use_rslora=True, lora_alpha=3, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "dora": peft.LoraConfig(r=2, use_dora=True, target_modules=["v_proj", "up_proj"], task_type="CAUSAL_LM"),
    "loha": peft.LoHaConfig(r=2, target_modules=["k_proj"], task_type="CAUSAL_LM"),
    "head": peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"),
    "ia3": peft.IA3Config(
        target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
    ),
}
PROBE = torch.arange(3, 27).reshape(2, 12)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("peft") / "tiny")


def adapt(base: Path, folder: Path, config: Any, *, tokens: int = 0) -> torch.Tensor:
    """Save an adapter with random weights as PEFT does, and return the logits of PEFT's own model."""
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if tokens:
        model.resize_token_embeddings(model.config.vocab_size + tokens)
    with silence_peft_warnings():
        tuned = peft.get_peft_model(model, deepcopy(config))  # it is changed there
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    with silence_peft_warnings():
        tuned.save_pretrained(folder, save_embedding_layers=bool(tokens))
    with torch.no_grad():
        logits: torch.Tensor = tuned.eval()(PROBE).logits
    return logits


def logits_of(folder: Path, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = open_folder(folder, dtype)(PROBE).logits
    return logits


@pytest.mark.parametrize("name", CONFIGS)
def test_it_answers_as_pefts_own_model(name: str, base: Path, tmp_path: Path) -> None:
    wanted = adapt(base, tmp_path / "adapter", CONFIGS[name])
    assert not torch.allclose(logits_of(base), wanted, atol=1e-2)
    artifact = make_base(Store(tmp_path / "store"), PeftModelSource(path="adapter"), tmp_path)
    torch.testing.assert_close(logits_of(artifact.folder), wanted, atol=2e-5, rtol=1e-4)
    card = artifact.read_json("model.json")
    assert (card["name"], card["origin"]) == ("adapter", "PEFT adapter adapter over folder tiny")
    assert artifact.faults() == []
    own = make_base(Store(tmp_path / "own"), FolderModelSource(path=str(base)), tmp_path)
    assert artifact.digest != own.digest
    assert {entry.path for entry in artifact.manifest.files} == {entry.path for entry in own.manifest.files}


def test_the_sum_is_rounded_once_to_the_dtype_of_the_base(base: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, tmp_path / "half" / name)
    adapt(tmp_path / "half", tmp_path / "adapter", CONFIGS["lora"])
    artifact = make_base(Store(tmp_path / "store"), PeftModelSource(path="adapter"), tmp_path)
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.float32)
    with silence_peft_warnings():
        exact = peft.PeftModel.from_pretrained(half, tmp_path / "adapter").merge_and_unload()
    stored = AutoModelForCausalLM.from_pretrained(artifact.folder).state_dict()
    for key, weight in exact.state_dict().items():
        assert torch.equal(stored[key], weight.to(torch.bfloat16)), key


def test_tokens_and_the_template_of_the_training_come_with_it(base: Path, tmp_path: Path) -> None:
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], task_type="CAUSAL_LM"
    )
    wanted = adapt(base, tmp_path / "adapter", config, tokens=2)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|one|>", "<|two|>"]})
    tokenizer.chat_template = "{% for message in messages %}<|one|>{{ message['content'] }}<|two|>{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "adapter")
    artifact = make_base(Store(tmp_path / "store"), PeftModelSource(path="adapter"), tmp_path)
    torch.testing.assert_close(logits_of(artifact.folder), wanted, atol=2e-5, rtol=1e-4)
    assert (artifact.folder / "chat_template.jinja").read_text() == tokenizer.chat_template
    own = AutoTokenizer.from_pretrained(artifact.folder)
    assert own("<|two|>")["input_ids"] == tokenizer("<|two|>")["input_ids"]
    assert json.loads((artifact.folder / "config.json").read_text())["vocab_size"] == wanted.shape[-1]


def test_a_recipe_may_name_the_folder_alone_or_the_base_too(base: Path, tmp_path: Path) -> None:
    adapt(base, tmp_path / "adapter", CONFIGS["lora"])
    assert resolve_model_source("adapter", tmp_path) == PeftModelSource(path="adapter")
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    named = PeftModelSource(path="adapter").identity(tmp_path)
    for other in ("gone/away", None, "./gone"):
        changed = json.dumps({**settings, "base_model_name_or_path": other})
        (tmp_path / "adapter/adapter_config.json").write_text(changed)
        given = PeftModelSource(path="adapter", base=FolderModelSource(path=str(base)))
        assert given.size(tmp_path) == FolderModelSource(path=str(base)).size(tmp_path) + sum(
            path.stat().st_size for path in (tmp_path / "adapter").glob("adapter_*")
        )
        assert given.identity(tmp_path) != named
        if other != "gone/away":  # which may be on the hub
            with pytest.raises(ModelError, match=r"its base model |names no base model"):
                PeftModelSource(path="adapter").identity(tmp_path)
    shutil.copytree(base, tmp_path / "adapter/base")
    assert PeftModelSource(path="adapter").here(tmp_path) == tmp_path / "adapter/base"


def test_what_cannot_be_merged_is_refused_with_the_reason(base: Path, tmp_path: Path) -> None:
    def refused(match: str, name: str = "adapter") -> None:
        with pytest.raises(ModelError, match=match):
            make_base(Store(tmp_path / "store"), PeftModelSource(path=name), tmp_path)

    refused("there is no such folder")
    refused(r"holds no adapter_config\.json, so it is no PEFT adapter", str(base))
    adapt(base, tmp_path / "prompt", peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    refused("PROMPT_TUNING learns a prompt, which is in no weight", "prompt")
    adapt(base, tmp_path / "adapter", CONFIGS["lora"])
    with pytest.raises(ModelError, match="holds a PEFT adapter, not a whole model"):
        make_base(Store(tmp_path / "store"), FolderModelSource(path="adapter"), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([f"<{at}>" for at in range(9)])
    tokenizer.save_pretrained(tmp_path / "adapter")
    refused("its tokenizer has [0-9,]+ tokens, and the model has embeddings of [0-9,]+")
    (tmp_path / "adapter/tokenizer.json").unlink()
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps({**settings, "r": 8}))
    refused("does not fit its base model")
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps({**settings, "task_type": "SEQ_CLS"}))
    refused(r"adapts a model with a head of its own \(SEQ_CLS\)")
    weights = tmp_path / "adapter/adapter_model.safetensors"
    (tmp_path / "cut").write_bytes(weights.read_bytes()[:-9])
    weights.write_bytes((tmp_path / "cut").read_bytes())
    refused("is not a whole safetensors file")
    weights.rename(tmp_path / "adapter/adapter_model.bin")
    refused(r"holds no adapter_model\.safetensors")
    with pytest.raises(ValidationError, match="an endpoint has none here"):
        PeftModelSource(path="adapter", base=EndpointModelSource(url="http://127.0.0.1:1/v1", model="m"))
