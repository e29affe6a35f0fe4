"""Soft prompts start as the words they are given, refuse what cannot be, and go through every door."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, MambaForCausalLM

from luthier.cli.app import run_command
from luthier.core.errors import InputError, ModelError
from luthier.core.system.process import hide_transformers_output
from luthier.models.kernels.calls import disable_kernels
from luthier.models.load import open_folder
from luthier.models.packing.logprobs import detect_forward_mode
from luthier.models.quiet import silence_peft_warnings
from luthier.tune.techniques.p_tuning import PTuning
from luthier.tune.techniques.prefix import PrefixTuning
from luthier.tune.techniques.prompt import PromptTuning
from tiny_models import RECIPE, own_cache, small_recipe, tiny_model

TEXT = "Where is the parcel"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def plain(folder: Path) -> Any:
    return open_folder(folder, torch.float32)


def words(folder: Path) -> list[int]:
    return list(AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"])


@pytest.mark.parametrize("technique", [PromptTuning, PrefixTuning])
def test_a_start_from_a_text_reads_as_if_the_text_stood_there(
    folder: Path, technique: type[PromptTuning | PrefixTuning]
) -> None:
    ids = words(folder)
    prefix = "prompt_tuning_" if technique is PromptTuning else ""
    start: dict[str, Any] = {f"{prefix}init": "text", f"{prefix}init_text" if prefix else "text": TEXT}
    made = technique(**start, num_virtual_tokens=len(ids)).adapt(plain(folder), 1).eval()
    asked = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad(), silence_peft_warnings():
        found = made(input_ids=asked, attention_mask=torch.ones_like(asked)).logits[:, -4:]
        wanted = plain(folder)(input_ids=torch.tensor([[*ids, *asked[0]]])).logits[:, -4:]
    torch.testing.assert_close(found, wanted)


def test_a_prefix_starts_in_the_same_bits_whatever_was_read_before(folder: Path) -> None:
    """Kernels take over some of an architecture's functions, for all of the process, once a model of it was read."""

    def start() -> torch.Tensor:
        made = PrefixTuning(num_virtual_tokens=8).adapt(open_folder(folder, torch.bfloat16), 3)
        return next(value for name, value in made.named_parameters() if "prompt_encoder" in name).detach()

    with disable_kernels():
        wanted = start()
    detect_forward_mode(open_folder(folder, torch.bfloat16))
    assert torch.equal(start(), wanted)


def test_a_prompt_starts_as_pefts_does(folder: Path) -> None:
    made = PromptTuning(prompt_tuning_init="text", prompt_tuning_init_text=TEXT, num_virtual_tokens=20).adapt(
        plain(folder), 1
    )
    told = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": TEXT, "tokenizer_name_or_path": str(folder)}
    with silence_peft_warnings():
        peft = get_peft_model(plain(folder), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=20, **told))
    assert torch.equal(made.prompt_encoder.default.embedding.weight, peft.prompt_encoder.default.embedding.weight)


@pytest.mark.parametrize("technique", [PromptTuning, PrefixTuning])
def test_a_text_longer_than_the_prompt_is_refused(folder: Path, technique: type[PromptTuning | PrefixTuning]) -> None:
    prefix = "prompt_tuning_" if technique is PromptTuning else ""
    text = f"{prefix}init_text" if prefix else "text"
    count = len(words(folder))
    with pytest.raises(InputError, match=f"the text has {count} tokens, and the prompt 2") as caught:
        technique(**{f"{prefix}init": "text", text: TEXT}, num_virtual_tokens=2).adapt(plain(folder), 1)
    assert caught.value.hint == f"set `num_virtual_tokens: {count}`, or shorten the text"
    with pytest.raises(InputError, match="has 0 tokens"):
        technique(**{f"{prefix}init": "text", text: ""}, num_virtual_tokens=2).adapt(plain(folder), 1)


@pytest.mark.parametrize(
    ("technique", "settings"),
    [
        (PromptTuning, {"prompt_tuning_init_text": TEXT}),
        (PromptTuning, {"prompt_tuning_init": "text"}),
        (PrefixTuning, {"init": "random", "text": TEXT}),
        (PrefixTuning, {"encoder_hidden_size": 8}),
        (PTuning, {"encoder_num_layers": 3}),
    ],
)
def test_a_setting_without_use_is_an_error(technique: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"goes with|set `init: random`"):
        technique(**settings)


def test_a_prefix_needs_keys_and_values(folder: Path) -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=53, hidden_size=32, num_hidden_layers=2, state_size=4))
    with pytest.raises(ModelError, match="carries a state"):
        PrefixTuning().adapt(mamba, 1)
    model = plain(folder)
    model.config.num_key_value_heads = 1  # as if each layer had its own
    with pytest.raises(ModelError, match="of one shape in every layer"):
        PrefixTuning().adapt(model, 1)


@pytest.mark.matrix("{kind: p_tuning*")
@pytest.mark.parametrize(
    "technique",
    ["{kind: prefix, num_virtual_tokens: 4}", "{kind: p_tuning, num_virtual_tokens: 4, encoder_hidden_size: 16}"],
)
def test_it_goes_through_every_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], technique: str
) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    monkeypatch.chdir(tmp_path)
    small_recipe(tmp_path, RECIPE.replace("{kind: lora, r: 4}", technique), rows=60)

    def said(*arguments: str, exit: int = 0) -> Any:
        capsys.readouterr()
        assert run_command([*arguments, "--json"]) == exit
        return json.loads(capsys.readouterr().out)

    steps = said("run")["steps"]
    models = json.loads((Path(steps["report"]["path"]) / "metrics.json").read_text())["models"]
    assert {"base", "tuned"} <= set(models)
    answer = said("chat", ":tune", "-p", TEXT, "--max-tokens", "5")["answer"]
    assert answer == in_plain_peft(Path(steps["model"]["path"]), Path(steps["tune"]["path"]) / "adapter", 5)
    files = said("export", ":tune", "--to", "out", "--format", "adapter")["files"]
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= set(files)
    for form in ("merged", "gguf"):
        error = said("export", ":tune", "--to", "whole", "--format", form, exit=2)["error"]
        assert "learns a prompt, which cannot be merged into weights" in error["message"]
        assert "--format adapter" in error["hint"]
    assert not Path("whole").exists()


def in_plain_peft(base: Path, adapter: Path, limit: int) -> str:
    """What the adapter answers to the text, asked by nobody but PEFT."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": TEXT}], add_generation_prompt=True)["input_ids"]
    with hide_transformers_output(), silence_peft_warnings(), torch.no_grad():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
        ids = torch.tensor([asked])
        for _ in range(limit):
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    return str(tokenizer.decode(ids[0, len(asked) :], skip_special_tokens=True))
