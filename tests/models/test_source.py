"""Folders of weights: what is taken, what is completed, and what is refused with its reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import ModelError
from luthier.core.events import RunEvent
from luthier.core.store import Store
from luthier.models.source import check_model_folder, copy_model_folder, is_hub_id, write_config_dtype
from luthier.models.sources.folder import FolderModelSource
from models.making import make_base, other_model
from tiny_models import tiny_model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_base_artifact_has_the_documented_layout(place: Path, tmp_path: Path) -> None:
    (place / "pytorch_model.bin").write_bytes(b"pickle")
    (place / "notes.txt").write_text("mine")
    (place / "README.md").write_text("---\nlicense: mit\n---\n# tiny\n")
    heard: list[RunEvent] = []
    artifact = make_base(Store(tmp_path / "store"), FolderModelSource(path="model"), tmp_path, heard)
    names = {entry.path for entry in artifact.manifest.files}
    assert names == {
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "generation_config.json", "model.json",
    }  # fmt: skip
    card = artifact.read_json("model.json")
    assert card["name"] == "model"
    assert card["licence"] == "mit"
    assert card["tied"] is True
    assert card["parameters"] == 400 * 32 + 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 64) + 32
    assert artifact.faults() == []
    assert any("pytorch_model.bin" in event.text for event in heard)


def test_a_model_without_a_licence_is_warned_of(place: Path, tmp_path: Path) -> None:
    heard: list[RunEvent] = []
    make_base(Store(tmp_path / "store"), FolderModelSource(path="model"), tmp_path, heard)
    assert any(event.kind == "warning" and "licence" in event.text for event in heard)


def test_the_same_folder_gives_the_same_bytes(place: Path, tmp_path: Path) -> None:
    first = make_base(Store(tmp_path / "one"), FolderModelSource(path="model"), tmp_path)
    second = make_base(Store(tmp_path / "two"), FolderModelSource(path="model"), tmp_path)
    assert first.manifest == second.manifest


def test_the_fingerprint_follows_the_contents(place: Path, tmp_path: Path) -> None:
    source = FolderModelSource(path="model")
    before = source.fingerprint(tmp_path)
    (place / "notes.txt").write_text("not part of the model")
    assert source.fingerprint(tmp_path) == before
    change(place / "config.json", rope_theta=1.0)
    assert source.fingerprint(tmp_path) != before


def test_templates_move_out_of_the_tokenizer_config(place: Path, tmp_path: Path) -> None:
    (place / "chat_template.jinja").unlink()
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    change(place / "tokenizer_config.json", chat_template=named)
    (tmp_path / "out").mkdir()
    copy_model_folder(place, tmp_path / "out", lambda text: None)
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "D"
    assert (tmp_path / "out" / "additional_chat_templates" / "tool_use.jinja").read_text() == "T"
    assert "chat_template" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())


def test_generation_settings_are_completed_from_the_config(place: Path, tmp_path: Path) -> None:
    (place / "generation_config.json").unlink()
    (tmp_path / "out").mkdir()
    copy_model_folder(place, tmp_path / "out", lambda text: None)
    told = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert told == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def test_shards_are_taken_whole_or_refused(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    place = other_model(tmp_path / "model", "llama")
    model = AutoModelForCausalLM.from_pretrained(place)
    (place / "model.safetensors").unlink()
    model.save_pretrained(place, max_shard_size="40KB")
    artifact = make_base(Store(tmp_path / "store"), FolderModelSource(path="model"), tmp_path)
    assert artifact.read_json("model.json")["parameters"] == model.num_parameters()
    next(place.glob("model-00002*")).unlink()
    with pytest.raises(ModelError, match="lacks model-00002"):
        check_model_folder(place)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        FolderModelSource(path="nowhere").fingerprint(tmp_path)


def test_pickle_weights_are_refused_with_the_reason(place: Path) -> None:
    (place / "model.safetensors").rename(place / "pytorch_model.bin")
    with pytest.raises(ModelError, match="runs whatever code"):
        check_model_folder(place)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused(place: Path, name: str) -> None:
    change(place / name, auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"})
    with pytest.raises(ModelError, match="auto_map"):
        check_model_folder(place)


def test_quantized_weights_are_refused(place: Path) -> None:
    change(place / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelError, match="gptq"):
        check_model_folder(place)


def test_a_shard_outside_the_folder_is_refused(place: Path) -> None:
    (place / "model.safetensors").unlink()
    index = {"weight_map": {"a": "../../secret.safetensors"}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="not a safetensors file beside it"):
        check_model_folder(place)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no model.safetensors"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_a_missing_part_is_named(place: Path, name: str, says: str) -> None:
    (place / name).unlink()
    with pytest.raises(ModelError, match=says):
        check_model_folder(place)


@pytest.mark.parametrize("cut", [4, 100, -1])
def test_cut_weights_are_noticed(place: Path, cut: int) -> None:
    path = place / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError, match="whole safetensors"):
        check_model_folder(place)


def test_a_config_that_is_not_json(place: Path) -> None:
    (place / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        check_model_folder(place)
    (place / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="JSON object"):
        check_model_folder(place)


def test_hub_ids() -> None:
    assert is_hub_id("Qwen/Qwen3-0.6B")
    assert not any(is_hub_id(text) for text in ["gpt2", "a/b/c", "../x", "a/b.gguf", "/a", "a/", "a b/c"])


def test_the_dtype_that_is_named_becomes_that_of_the_weights(tmp_path: Path) -> None:
    """By either name, in the settings of the language part too; what names none stays as it is, to the byte."""
    config = tiny_model(tmp_path / "tiny") / "config.json"
    told = json.loads(config.read_text())
    silent = {name: value for name, value in told.items() if name != "dtype"}
    for before, after in (
        ({"dtype": "bfloat16"}, {"dtype": "float32"}),
        ({"torch_dtype": "float16"}, {"torch_dtype": "float32"}),
        ({"text_config": {"dtype": "bfloat16", "a": 1}}, {"text_config": {"dtype": "float32", "a": 1}}),
    ):
        config.write_text(json.dumps({**silent, **before}))
        write_config_dtype(config.parent)
        assert json.loads(config.read_text()) == {**silent, **after}
    for same in ({}, {"dtype": "float32"}, {"dtype": None}):
        config.write_text(text := json.dumps({**silent, **same}))
        write_config_dtype(config.parent)
        assert config.read_text() == text
