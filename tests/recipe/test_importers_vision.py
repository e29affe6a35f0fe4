"""Vision settings of LLaMA-Factory and axolotl become settings of a recipe, or are left with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.core.errors import InputError
from luthier.recipe.importers.translate import translate_config
from luthier.recipe.importers.vision import expand_module_pattern
from luthier.recipe.schema import Recipe
from media import picture

LLAMA: dict[str, Any] = {
    "model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct", "stage": "sft", "finetuning_type": "lora", "lora_rank": 8,
    "lora_target": "all", "cutoff_len": 2048, "template": "qwen2_vl", "dataset": "shown",
}  # fmt: skip
AXOLOTL: dict[str, Any] = {
    "base_model": "llava-hf/llava-1.5-7b-hf", "adapter": "lora", "lora_r": 8, "micro_batch_size": 2,
    "sequence_len": 2048, "processor_type": "AutoProcessor",
    "datasets": [{"path": "data/shown.jsonl", "type": "chat_template"}],
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "data" / "pictures").mkdir(parents=True)
    rows = []
    for at in range(20):
        (tmp_path / "data" / "pictures" / f"{at}.png").write_bytes(picture(seed=at))
        turns = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": f"number {at}"}]
        rows.append({"messages": turns, "images": [f"pictures/{at}.png"]})
    (tmp_path / "data" / "shown.json").write_text(json.dumps(rows))
    (tmp_path / "data" / "shown.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    entry = {
        "file_name": "shown.json", "formatting": "sharegpt", "columns": {"messages": "messages", "images": "images"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    }  # fmt: skip
    plain = {"file_name": "plain.jsonl", "columns": {"prompt": "question", "response": "answer"}}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps({"shown": entry, "plain": plain}))
    return tmp_path


def translated(place: Path, options: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The recipe, which loads, and the account."""
    found = translate_config(dict(options), place / "file.yaml", place / "mine")
    (place / "mine").mkdir(exist_ok=True)
    (place / "mine" / "recipe.yaml").write_text(found.text)
    Recipe.load(place / "mine" / "recipe.yaml")
    return yaml.safe_load(found.text), found.account


@pytest.mark.parametrize(
    ("options", "on"),
    [
        ({}, ["language"]),
        ({"freeze_vision_tower": False}, ["language", "vision"]),
        ({"freeze_multi_modal_projector": False}, ["language", "projector"]),
        ({"freeze_language_model": True, "freeze_vision_tower": False}, ["vision"]),
    ],
)
def test_llamafactory_freezes_as_it_says_and_as_it_does_otherwise(place: Path, options: Any, on: list[str]) -> None:
    recipe, account = translated(place, LLAMA | options)
    assert recipe["steps"]["tune"]["technique"]["on"] == on
    for name, value in options.items():
        assert account.taken[f"{name}: {value}"] == "steps.tune.technique.on"


def test_a_projector_alone_is_refused_with_what_moves_it(place: Path) -> None:
    options = {"freeze_language_model": True, "freeze_multi_modal_projector": False}
    with pytest.raises(InputError, match="lets the projector alone learn") as caught:
        translated(place, LLAMA | options)
    assert "freeze_multi_modal_projector" in (caught.value.where.field or "")
    assert "*projector*" in (caught.value.hint or "")


def test_llamafactory_names_its_media_and_bounds_their_pixels(place: Path) -> None:
    recipe, account = translated(place, LLAMA | {"image_max_pixels": 200_704, "image_min_pixels": 784})
    assert recipe["steps"]["base"] == {
        "kind": "base", "source": {"kind": "hub", "id": "Qwen/Qwen2.5-VL-3B-Instruct"}, "max_pixels": 200_704,
    }  # fmt: skip
    assert recipe["steps"]["tune"]["model"] == "base"
    assert recipe["steps"]["data"]["source"]["media_folder"] == "../data"
    assert account.taken["image_max_pixels: 200704"] == "steps.base.max_pixels"
    assert "made larger by the model's own processor" in account.left["image_min_pixels: 784"]
    assert account.unknown == []
    recipe["steps"] = {"data": recipe["steps"]["data"]}
    recipe.pop("model", None)
    (place / "mine" / "data.yaml").write_text(yaml.safe_dump(recipe))
    summary = Recipe.load(place / "mine" / "data.yaml").run()["data"].artifact.read_json("summary.json")
    assert sum(summary["rows"].values()) == 20


def test_llamafactory_defaults_bound_pictures_where_rows_have_some(place: Path) -> None:
    recipe, _ = translated(place, LLAMA)
    assert recipe["steps"]["base"]["max_pixels"] == 768 * 768
    text = {name: value for name, value in LLAMA.items() if name != "dataset"} | {"dataset": "plain"}
    plain, _ = translated(place, text)
    assert "base" not in plain["steps"]
    assert "on" not in plain["steps"]["tune"]["technique"]


def test_llamafactory_moves_the_decoder_alone_when_all_of_it_is_tuned(place: Path) -> None:
    recipe, _ = translated(place, LLAMA | {"finetuning_type": "full"})
    assert recipe["steps"]["tune"]["technique"] == {
        "kind": "layers", "last": 0, "names": ["*language_model*"], "head": True,
    }  # fmt: skip
    free = {"freeze_vision_tower": False, "freeze_multi_modal_projector": False}
    assert translated(place, LLAMA | {"finetuning_type": "full"} | free)[0]["steps"]["tune"]["technique"] == {
        "kind": "full"
    }
    _, account = translated(place, LLAMA | {"finetuning_type": "full", "freeze_multi_modal_projector": False})
    assert "moves all parts" not in str(account.taken)


def test_films_of_llamafactory_become_frames(place: Path) -> None:
    info = json.loads((place / "data" / "dataset_info.json").read_text())
    info["shown"]["columns"] = {"messages": "messages", "videos": "clips"}
    (place / "data" / "dataset_info.json").write_text(json.dumps(info))
    recipe, _ = translated(place, LLAMA | {"video_maxlen": 16, "media_dir": "films"})
    source = recipe["steps"]["data"]["source"]
    assert source["video"] == {"fps": 2.0, "max_frames": 16}
    assert source["media_columns"] == {"clips": "video"}
    assert source["media_folder"] == "../films"


def test_axolotl_freezes_sizes_and_names_layers(place: Path) -> None:
    pattern = r"model.language_model.layers.[\d]+.(mlp|cross_attn|self_attn).(up|down|gate|q|k|v|o)_proj"
    recipe, account = translated(
        place, AXOLOTL | {"freeze_mm_modules": True, "image_size": 512, "lora_target_modules": pattern}
    )
    technique = recipe["steps"]["tune"]["technique"]
    assert technique["on"] == ["language"]
    assert technique["target_modules"] == sorted(f"{name}_proj" for name in ("up", "down", "gate", "q", "k", "v", "o"))
    assert recipe["steps"]["base"]["max_pixels"] == 512 * 512
    assert "own settings" in account.left["processor_type: AutoProcessor"]
    assert account.unknown == []
    plain, _ = translated(place, AXOLOTL)
    assert "on" not in plain["steps"]["tune"]["technique"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("q_proj", None),
        ("all-linear", None),
        (r"^.*language_model.*(q|v)_proj$", ["q_proj", "v_proj"]),
        (r".*\.fc1", ["fc1"]),
        (r".*\.(fc1|fc2)", ["fc1", "fc2"]),
        (r".*(", None),
    ],
)
def test_layers_of_a_pattern(pattern: str, names: list[str] | None) -> None:
    assert expand_module_pattern(pattern) == names
