"""Opening artifacts: bases, adapters, chains of adapters, and the errors of what cannot be opened."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from luthier.core.errors import ModelError
from luthier.models.load import (
    cpu_has_bf16,
    find_base_folder,
    get_model_name,
    is_adapter,
    load_base,
    load_model,
    open_model,
    pick_dtype,
)
from luthier.models.quiet import silence_peft_warnings
from models.making import full_tune, tiny_adapter, tiny_base

IDS = torch.tensor([[1, 50, 60, 70, 80]])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def test_a_base_opens_as_plain_transformers(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    _, base = tiny_base(tmp_path)
    loaded = load_model(base, "float32")
    assert type(loaded.model) is LlamaForCausalLM
    assert (loaded.folder, loaded.name, loaded.digest) == (base.folder, "tiny", base.digest)
    assert not loaded.model.training
    assert loaded.model.dtype == torch.float32
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    assert load_model(base, "bfloat16").model.dtype == torch.bfloat16


def test_auto_follows_the_machine(tmp_path: Path) -> None:
    wanted = torch.bfloat16 if cpu_has_bf16() or torch.cuda.is_available() else torch.float32
    assert pick_dtype("auto") == wanted
    assert open_model(tiny_base(tmp_path)[1]).dtype == wanted


def test_an_adapter_stands_over_its_base_as_in_plain_peft(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    store, base = tiny_base(tmp_path)
    adapter = tiny_adapter(store, base)
    loaded = load_model(adapter, "float32")
    with silence_peft_warnings():
        plain = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32), adapter.folder / "adapter"
        )
    torch.testing.assert_close(logits(loaded.model), logits(plain.eval()))
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not torch.allclose(logits(loaded.model), logits(load_model(base, "float32").model))
    assert is_adapter(adapter)
    assert (loaded.folder, loaded.name) == (base.folder, "tiny+lora")


def test_the_base_under_an_adapter_opens_alone_and_nothing_in_it_learns(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    for artifact in (base, tiny_adapter(store, base)):
        loaded = load_base(artifact, "float32")
        assert (loaded.folder, loaded.name, loaded.digest) == (base.folder, "tiny", base.digest)
        assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    lower = tiny_adapter(store, base, seed=1)
    merged = load_base(tiny_adapter(store, lower, seed=2), "float32").model
    torch.testing.assert_close(logits(merged), logits(load_model(lower, "float32").model), atol=1e-5, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in merged.parameters())


def test_an_adapter_over_an_adapter_merges_the_lower_one(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    lower = tiny_adapter(store, base, seed=1)
    upper = tiny_adapter(store, lower, seed=2)
    loaded = load_model(upper, "float32")
    assert loaded.name == "tiny+lora+lora"
    assert find_base_folder(upper) == base.folder
    with loaded.model.disable_adapter():
        without = logits(loaded.model)
    assert torch.allclose(without, logits(load_model(lower, "float32").model), atol=1e-5)
    assert not torch.allclose(without, logits(loaded.model), atol=1e-2)


def test_a_full_fine_tune_is_its_own_folder(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    tuned = full_tune(store, base)
    loaded = load_model(tuned, "float32")
    assert loaded.folder == tuned.folder
    assert get_model_name(tuned) == "tiny+full"
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    over = tiny_adapter(store, tuned)
    assert load_model(over).folder == tuned.folder


def test_missing_weights_are_an_error_not_random_numbers(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    _, base = tiny_base(tmp_path)
    path = base.folder / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"do not fit.*layers\.1\.mlp\.down_proj"):
        load_model(base)


def test_weights_of_another_shape_are_an_error(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    _, base = tiny_base(tmp_path)
    path = base.folder / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] = torch.ones(7)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError):
        load_model(base)


def test_an_adapter_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    adapter = tiny_adapter(store, base)
    from safetensors.torch import load_file, save_file

    path = adapter.folder / "adapter" / "adapter_model.safetensors"
    whole = path.read_bytes()
    weights = load_file(path)
    save_file(dict(list(weights.items())[1:]), path)
    with pytest.raises(ModelError, match=r"does not fit.*missing adapter keys"):
        load_model(adapter)
    path.write_bytes(whole)
    config = adapter.folder / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"q_proj"', '"nothing"').replace('"v_proj"', '"nowhere"'))
    config.write_text(config.read_text().replace('"down_proj"', '"never"'))
    with pytest.raises(ModelError, match="does not fit"):
        load_model(adapter)
    (adapter.folder / "adapter" / "adapter_model.safetensors").rename(adapter.folder / "adapter" / "adapter_model.bin")
    with pytest.raises(ModelError, match="no adapter_model"):
        load_model(adapter)


@pytest.mark.model
def test_the_real_model_answers(smollm2: object) -> None:
    from transformers import AutoTokenizer

    from luthier.core.artifact import Artifact

    assert isinstance(smollm2, Artifact)
    loaded = load_model(smollm2)
    tokenizer = AutoTokenizer.from_pretrained(loaded.folder, local_files_only=True)
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.encode(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    out = loaded.model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=12, do_sample=False
    )
    assert "Paris" in tokenizer.decode(out[0, len(ids) :])
