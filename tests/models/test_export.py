"""Exports open in plain transformers and PEFT, answer as the model does, and never overwrite what is not theirs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from luthier.core.artifact import Artifact
from luthier.core.errors import InputError, LuthierError, ModelError
from luthier.models.describe import describe_model_folder
from luthier.models.export import checkpoint as exports
from luthier.models.export.checkpoint import MARKER, export_model_folder
from luthier.models.export.model_card import ModelScores, strip_absolute_paths
from luthier.models.gguf import writer
from luthier.models.gguf.reader import open_gguf, read_gguf_tokenizer
from luthier.models.load import load_model, open_merged
from luthier.models.quiet import silence_peft_warnings
from models.making import full_tune, merged, other_model, sentence_pieces, strong_model, tiny_adapter, tiny_base

IDS = torch.tensor([[1, 50, 60, 70, 80]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def front_matter(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    return found


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_merged_opens_in_plain_transformers(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    store, base = tiny_base(tmp_path, kind=kind)
    adapter = tiny_adapter(store, base)
    heard: list[str] = []
    to = export_model_folder(adapter, tmp_path / "out" / "merged", "merged", say=heard.append)
    model = AutoModelForCausalLM.from_pretrained(to).eval()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.allclose(logits(model), logits(load_model(adapter, "float32").model), atol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(to)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(base.folder).chat_template
    for name in ("generation_config.json", "config.json", "tokenizer.json", "chat_template.jinja"):
        assert (to / name).read_bytes() == (base.folder / name).read_bytes()
    assert describe_model_folder(to).parameters == describe_model_folder(base.folder).parameters
    assert any("checked" in text for text in heard)


def test_merged_keeps_the_dtype_of_the_base(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path, kind="llama", dtype="bfloat16")
    to = export_model_folder(tiny_adapter(store, base), tmp_path / "out", "merged")
    assert describe_model_folder(to).dtype == "bfloat16"
    assert json.loads((to / "config.json").read_text())["dtype"] == "bfloat16"


def test_hf_of_a_base_and_of_a_full_fine_tune(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    for artifact in (base, full_tune(store, base)):
        to = export_model_folder(artifact, tmp_path / artifact.digest, "hf")
        assert (to / "model.safetensors").read_bytes() == (artifact.folder / "model.safetensors").read_bytes()
        assert not (to / "training.json").exists()


def test_adapter_loads_in_plain_peft(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    store, base = tiny_base(tmp_path)
    adapter = tiny_adapter(store, base)
    to = export_model_folder(adapter, tmp_path / "out", "adapter")
    with silence_peft_warnings():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.folder), to).eval()
    torch.testing.assert_close(logits(model), logits(load_model(adapter, "float32").model))
    config = json.loads((to / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(to / "base")
    assert front_matter(to)["library_name"] == "peft"


def test_gguf_reads_back_as_the_tuned_model(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    adapter = tiny_adapter(store, base)
    to = export_model_folder(adapter, tmp_path / "out", "gguf")
    assert {one.name for one in to.iterdir()} == {"tiny+lora-f16.gguf", "README.md", MARKER}
    model = open_gguf(to / "tiny+lora-f16.gguf")
    assert torch.allclose(logits(model), logits(load_model(adapter, "float32").model), atol=5e-2)
    assert read_gguf_tokenizer(to / "tiny+lora-f16.gguf").chat_template is not None


def test_the_command_for_llama_cpp_names_the_file_and_the_system_message(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    adapter = tiny_adapter(store, base)
    said = "Choose the user's class.\nAnswer with one word."
    before = {"messages": [{"role": "system", "content": said}], "system": "usual"}
    card = (export_model_folder(adapter, tmp_path / "out", "gguf", before=before) / "README.md").read_text()
    command = re.search(r"```\n(llama-cli .*?)\n```", card, re.DOTALL)
    assert command is not None
    assert shlex.split(command[1]) == ["llama-cli", "-m", "tiny+lora-f16.gguf", "-cnv", "-sys", said]
    plain = (export_model_folder(adapter, tmp_path / "plain", "gguf") / "README.md").read_text()
    assert "\nllama-cli -m tiny+lora-f16.gguf -cnv\n" in plain


@pytest.mark.matrix
@pytest.mark.parametrize(("quant", "largest"), [("q8_0", 0.02), ("q4_0", 0.3)])
@pytest.mark.parametrize("tied", [True, False])
def test_a_quantized_gguf_stays_near(tmp_path: Path, quant: writer.Quant, largest: float, tied: bool) -> None:
    from gguf import GGUFReader

    store, base = tiny_base(tmp_path, kind="llama", tied=tied)
    heard: list[str] = []
    to = export_model_folder(tiny_adapter(store, base), tmp_path / "out", "gguf", quant=quant, say=heard.append)
    reader = GGUFReader(to / f"tiny+lora-{quant}.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.ffn_up.weight"] == quant.upper()
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    assert kinds["token_embd.weight" if tied else "output.weight"] == "Q8_0"
    assert kinds["token_embd.weight"] == ("Q8_0" if tied else quant.upper())
    assert ("output.weight" in kinds) is not tied
    wanted = load_model(open_artifact(store, base), "float32").model
    off = (logits(open_gguf(to / f"tiny+lora-{quant}.gguf")) - logits(wanted)).abs().max()
    assert 0 < off < largest
    checked = json.loads((to / MARKER).read_text())["checked"]
    assert 0 < checked["nats"] < largest
    assert f"{checked['same_tokens']} of 16 greedy tokens" in heard[-1]


def open_artifact(store: Any, base: Artifact) -> Artifact:
    """The adapter that `tiny_adapter` makes over the base."""
    found: Artifact = next(one for one in map(store.open, store.digests()) if one.manifest.inputs)
    assert found.manifest.inputs["model"] == base.digest
    return found


def test_a_row_that_fills_no_block_stays_in_float16(tmp_path: Path) -> None:
    from gguf import GGUFReader

    _, base = tiny_base(tmp_path, kind="llama", intermediate_size=48)
    to = export_model_folder(base, tmp_path / "out", "gguf", quant="q4_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(to / "tiny-q4_0.gguf").tensors}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q4_0")


def test_a_broken_quantized_file_is_not_given_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, base = tiny_base(tmp_path)
    monkeypatch.setattr(exports, "MOST_NATS", {"q8_0": 1e-9})
    with pytest.raises(ModelError, match=r"answers otherwise than the model: \d+ of 16 greedy tokens"):
        export_model_folder(base, tmp_path / "out", "gguf", quant="q8_0")
    with pytest.raises(InputError, match="a precision of GGUF files"):
        export_model_folder(base, tmp_path / "out", "hf", quant="q8_0")


def test_generation_settings_and_template_travel_into_gguf(tmp_path: Path) -> None:
    from gguf import GGUFReader

    store, base = tiny_base(tmp_path)
    (base.folder / "generation_config.json").write_text(json.dumps({"temperature": 0.25, "top_k": 7}))
    to = export_model_folder(tiny_adapter(store, base), tmp_path / "out", "gguf")
    fields = GGUFReader(to / "tiny+lora-f16.gguf").fields
    assert fields["general.sampling.temp"].contents() == 0.25
    assert fields["general.sampling.top_k"].contents() == 7
    assert fields["tokenizer.chat_template"].contents() == (base.folder / "chat_template.jinja").read_text()


@pytest.mark.parametrize("name", ["chat_template.jinja", "generation_config.json"])
def test_what_gets_lost_on_the_way_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _, base = tiny_base(tmp_path)
    write = exports._write

    def careless(*args: Any, **more: bool) -> None:
        write(*args, **more)
        (args[1] / name).write_text("{}")

    monkeypatch.setattr(exports, "_write", careless)
    lost = "chat template" if name.startswith("chat") else "generation_config.json"
    with pytest.raises(ModelError, match=f"lost the {lost}"):
        export_model_folder(base, tmp_path / "out", "hf")


def test_the_card_says_what_it_is(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    measures = {
        "accuracy": {"value": 0.91, "low": 0.88, "high": 0.94},
        "loss": 1.25,
        "bleu": {"value": None, "low": None, "high": None},
    }
    told = ModelScores(
        measures, {"the base model": {"accuracy": 0.5, "loss": {"value": 2.0}}}, "40 rows", "It is better."
    )
    to = export_model_folder(tiny_adapter(store, base), tmp_path / "out", "merged", measures=told)
    text = (to / "README.md").read_text()
    assert front_matter(to) == {
        "base_model": "tiny", "base_model_relation": "finetune", "library_name": "transformers", "license": "unknown",
        "pipeline_tag": "text-generation", "tags": ["luthier"],
    }  # fmt: skip
    assert "| metric | value | interval | the base model |" in text
    assert "| accuracy | 0.91 | 0.88 to 0.94 | 0.5 |" in text
    assert "| loss | 1.25 |  | 2 |" in text
    assert "| bleu | – |  | – |" in text
    assert "Measured on 40 rows." in text
    assert "It is better." in text
    assert "learning_rate: 0.01" in text
    assert "d" * 32 in text
    assert str(tmp_path) not in text


def test_where_a_file_lay_is_nobodys_business() -> None:
    told = {"path": "../../home/me/secret project/rows.csv", "other": ["/data/a.csv", "data/b.csv", "~/c.csv"]}
    assert strip_absolute_paths(told) == {"path": "rows.csv", "other": ["a.csv", "data/b.csv", "c.csv"]}


def test_the_same_export_has_the_same_bytes_and_replaces_the_earlier_one(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    adapter = tiny_adapter(store, base)
    to = export_model_folder(adapter, tmp_path / "out", "merged")
    first = {one.name: one.read_bytes() for one in to.iterdir()}
    (to / "left.txt").write_text("of an earlier export")
    export_model_folder(adapter, to, "merged")
    assert {one.name: one.read_bytes() for one in to.iterdir()} == first
    assert {one.name for one in tmp_path.iterdir()} == {"tiny", "store", "out"}


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    _, base = tiny_base(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("three years")
    with pytest.raises(InputError, match="left alone"):
        export_model_folder(base, tmp_path / "mine", "hf")
    with pytest.raises(InputError, match="is a file"):
        export_model_folder(base, tmp_path / "mine" / "thesis.txt", "hf")
    assert [one.name for one in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    assert (export_model_folder(base, tmp_path / "empty", "hf") / MARKER).is_file()


def test_an_export_that_answers_otherwise_is_not_given_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, base = tiny_base(tmp_path)
    adapter = tiny_adapter(store, base, size=1.0)
    monkeypatch.setattr(exports, "open_merged", lambda artifact, dtype, **more: load_model(base, "float32").model)
    with pytest.raises(ModelError, match="answers otherwise"):
        export_model_folder(adapter, tmp_path / "out", "merged")
    assert {one.name for one in tmp_path.iterdir()} == {"tiny", "store"}


def test_what_a_format_cannot_hold_is_said(tmp_path: Path) -> None:
    from peft import PromptTuningConfig

    store, base = tiny_base(tmp_path)
    with pytest.raises(ModelError, match="whole model"):
        export_model_folder(base, tmp_path / "out", "adapter")
    upper = tiny_adapter(store, tiny_adapter(store, base, seed=1), seed=2)
    with pytest.raises(ModelError, match="over another adapter, so no folder holds its base"):
        export_model_folder(upper, tmp_path / "out", "adapter", with_base=False)
    assert (export_model_folder(upper, tmp_path / "both", "merged") / "model.safetensors").is_file()
    soft = tiny_adapter(store, base, PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"), seed=3)
    with pytest.raises(ModelError, match="learns a prompt"):
        export_model_folder(soft, tmp_path / "out", "merged")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_is_one_with_the_embeddings_does_not_merge(tmp_path: Path, tied: bool) -> None:
    from peft import LoraConfig

    store, base = tiny_base(tmp_path, kind="llama", tied=tied)
    config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    adapter = tiny_adapter(store, base, config)
    if not tied:
        whole = open_merged(adapter, torch.float32)
        assert torch.allclose(logits(whole), logits(load_model(adapter, "float32").model), atol=1e-4)
        return
    with pytest.raises(ModelError, match="one with the embeddings") as caught:
        open_merged(adapter, torch.float32)
    assert "--format adapter" in caught.value.hint
    with pytest.raises(ModelError, match="one with the embeddings"):
        merged(store, base, [adapter, tiny_adapter(store, base, seed=2)])
    assert (export_model_folder(adapter, tmp_path / "out", "adapter") / "adapter_model.safetensors").is_file()


def test_gguf_of_an_architecture_that_is_not_written(tmp_path: Path) -> None:
    from luthier.core.store import Store
    from luthier.models.sources.folder import FolderModelSource
    from models.making import make_base

    other_model(tmp_path / "neox", "gpt_neox")
    base = make_base(Store(tmp_path / "store"), FolderModelSource(path="neox"), tmp_path)
    with pytest.raises(LuthierError, match="not for gpt_neox") as caught:
        export_model_folder(base, tmp_path / "out", "gguf")
    assert "llama.cpp's own script" in caught.value.hint


@pytest.mark.parametrize(("name", "prefix"), [("gemma3", False), ("phi3", True), ("llama3", True)])
def test_gguf_of_a_model_whose_tokenizer_is_sentence_piece(tmp_path: Path, name: str, prefix: bool) -> None:
    from luthier.core.store import Store
    from luthier.models.sources.folder import FolderModelSource
    from models.making import make_base

    sentence_pieces(strong_model(tmp_path / "model", name), prefix=prefix, stripped=name == "phi3")
    base = make_base(Store(tmp_path / "store"), FolderModelSource(path="model"), tmp_path)
    heard: list[str] = []
    to = export_model_folder(base, tmp_path / "out", "gguf", say=heard.append)
    assert "16 of 16 greedy tokens" in heard[-1]
    assert read_gguf_tokenizer(next(to.glob("*.gguf"))).chat_template is not None


@pytest.mark.slow  # tests/models/test_export_every.py has small ones of each kind
@pytest.mark.model
@pytest.mark.parametrize("kind", ["hf", "gguf"])
def test_the_real_model_goes_out_whole(smollm2: Artifact, tmp_path: Path, kind: exports.Format) -> None:
    heard: list[str] = []
    to = export_model_folder(smollm2, tmp_path / "out", kind, say=heard.append)
    assert "16 of 16 greedy tokens" in heard[-1]
    assert front_matter(to)["license"] == "apache-2.0"
