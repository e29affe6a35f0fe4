"""Files of LLaMA-Factory's second generation become recipes that load; no option, however nested, is dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.core.errors import InputError
from luthier.recipe.importers.translate import RecipeTranslation, translate_config
from luthier.recipe.schema import Recipe

FILE: dict[str, Any] = {
    "model": "org/model",
    "model_class": "llm",
    "peft_config": {"name": "lora", "r": 16, "lora_alpha": 32, "target_modules": "all", "export_size": 5},
    "kernel_config": {"name": "auto"},
    "quant_config": None,
    "dist_config": {"name": "fsdp2", "dcp_path": None},
    "train_dataset": "data/demo.yaml",
    "output_dir": "outputs/run",
    "micro_batch_size": 1,
    "global_batch_size": 4,
    "cutoff_len": 256,
    "learning_rate": "1.0e-4",
    "max_steps": 10,
    "batching_strategy": "padding_free",
    "sample_backend": "hf",
    "max_new_tokens": 128,
    "sweet_dreams": 3,
}
"""As its own examples are written, with an option that there is not."""
DEMO = {
    "mine": {"path": "data/alpaca.jsonl", "source": "local", "converter": "alpaca", "size": 500, "odd": 1},
    "identity": {"path": "data/identity.json", "source": "local", "converter": "alpaca"},
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"instruction": f"Ask {at}?", "input": "", "output": f"Say {at}."} for at in range(20)]
    pairs = [{"prompt": f"Ask {at}?", "chosen": f"Good {at}", "rejected": f"Bad {at}"} for at in range(20)]
    for name, some in (("alpaca", rows), ("pairs", pairs)):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    (data / "demo.yaml").write_text(yaml.safe_dump(DEMO, sort_keys=False), encoding="utf-8")
    told = {"liked": {"path": "data/pairs.jsonl", "source": "local", "converter": "pair"}}
    (data / "liked.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    return tmp_path


def made(place: Path, change: dict[str, Any], name: str = "file") -> tuple[dict[str, Any], RecipeTranslation]:
    """The steps of the recipe that the file becomes, which loads, and its account."""
    folder = place / "mine"
    folder.mkdir(exist_ok=True)
    found = translate_config(FILE | change, place / f"{name}.yaml", folder)
    (folder / "recipe.yaml").write_text(found.text, encoding="utf-8")
    Recipe.load(folder)
    steps: dict[str, Any] = yaml.safe_load(found.text)["steps"]
    return steps, found


def test_what_is_asked_for_stands_in_the_recipe(place: Path) -> None:
    steps, found = made(place, {})
    assert found.account.tool == "LLaMA-Factory v1"
    assert steps["data"]["source"] == {"kind": "jsonl", "path": "../data/alpaca.jsonl"}
    tune = steps["tune"]
    assert tune["technique"] == {
        "kind": "lora",
        "r": 16,
        "lora_alpha": 32.0,
        "lora_dropout": 0.05,
        "target_modules": "all-linear",
    }
    assert tune["objective"] == {"kind": "sft", "max_length": 256, "truncation": "right", "train_on": "all"}
    assert tune["optimizer"] == {"kind": "adamw", "weight_decay": 0.01}  # as torch's own begins
    assert (tune["lr_scheduler"], tune["warmup_ratio"], tune["learning_rate"]) == ("constant", 0.0, 1e-4)
    assert (tune["batch_size"], tune["epochs"], tune["max_steps"], tune["dtype"]) == (
        4,
        2.0,
        10,
        "bfloat16",
    )  # of 20 rows


def test_every_option_stands_in_the_account(place: Path) -> None:
    """Those of its parts and of its description of data, too."""
    _, found = made(place, {})
    told = "\n".join(found.account.comments())
    for option, value in FILE.items():
        nested = [f"{option}.{name}" for name in value] if isinstance(value, dict) else [option]
        for name in nested:
            assert name in told, f"{name} is dropped in silence"
    for name in ("mine.source", "mine.converter", "mine.size", "data/demo.yaml: identity"):
        assert any(one.startswith(name) for one in found.account.left), name
    assert found.account.unknown == ["mine.odd: 1", "sweet_dreams: 3"]


@pytest.mark.parametrize(
    ("change", "name", "wanted"),
    [
        ({"train_dataset": "data/liked.yaml"}, "file", {"kind": "dpo", "beta": 0.1}),
        ({"train_dataset": "data/pairs.jsonl"}, "train_lora_dpo", {"kind": "dpo", "beta": 0.1}),
        ({"train_dataset": "data/pairs.jsonl"}, "train-rm", {"kind": "reward"}),
        (
            {"train_dataset": "data/pairs.jsonl", "pref_loss": "simpo", "simpo_gamma": 0.4, "pref_beta": 2.0},
            "file",
            {"kind": "simpo", "beta": 2.0, "gamma": 0.4},
        ),
    ],
)
def test_what_stands_on_its_command_line_is_told_from_options_data_and_name(
    place: Path, change: dict[str, Any], name: str, wanted: dict[str, Any]
) -> None:
    steps, found = made(place, change, name)
    objective = steps["tune"]["objective"]
    assert {key: objective[key] for key in wanted} == wanted
    assert any(one.startswith("command: ") for one in found.account.taken)


@pytest.mark.parametrize(
    ("change", "part", "wanted"),
    [
        ({"peft_config": None}, "technique", {"kind": "full"}),
        (
            {"peft_config": {"name": "freeze", "freeze_trainable_layers": 3, "freeze_trainable_modules": "all"}},
            "technique",
            {"kind": "layers", "last": 3},
        ),
        (
            {"peft_config": {"name": "freeze", "freeze_trainable_layers": -1}},
            "technique",
            {"kind": "layers", "last": 0, "blocks": [0]},
        ),
        ({"quant_config": {"name": "bnb", "quantization_bit": 8}}, "technique", {"kind": "qlora", "bits": 8}),
        ({"peft_config": '{"name": "lora", "r": 4}'}, "technique", {"kind": "lora", "r": 4, "lora_alpha": 16.0}),
        (
            {"optim_config": {"name": "muon", "momentum": 0.9, "ns_steps": 4, "adamw_betas": [0.8, 0.9]}},
            "optimizer",
            {"kind": "muon", "momentum": 0.9, "iterations": 4, "betas": [0.8, 0.9], "weight_decay": 0.1},
        ),
    ],
)
def test_parts_become_components(place: Path, change: dict[str, Any], part: str, wanted: dict[str, Any]) -> None:
    steps, found = made(place, change)
    assert {key: steps["tune"][part].get(key) for key in wanted} == wanted
    assert found.account.unknown == ["mine.odd: 1", "sweet_dreams: 3"]


@pytest.mark.parametrize(
    ("named", "path"), [("org/rows", "data/org--rows.jsonl"), ("org/rows/info.yaml", "data/org--rows.jsonl")]
)
def test_rows_of_the_hub_are_named(place: Path, named: str, path: str) -> None:
    steps, found = made(place, {"train_dataset": named})
    assert steps["data"]["source"] == {"kind": "jsonl", "path": path}
    assert (steps["tune"]["max_steps"], steps["tune"]["epochs"]) == (10, 1000.0)
    assert "is not beside that file" in found.text


@pytest.mark.parametrize(
    ("text", "said"), [("- one\n", "by name"), ("mine: {source: local}\n", "no `path`"), ("mine: 3\n", "by name")]
)
def test_a_description_that_says_no_path_is_named(place: Path, text: str, said: str) -> None:
    (place / "data" / "bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said) as caught:
        made(place, {"train_dataset": "data/bad.yaml"})
    assert caught.value.where.file.endswith("bad.yaml")


def test_a_technique_that_there_is_not_is_refused_with_what_to_do(place: Path) -> None:
    with pytest.raises(InputError, match="the technique 'oft'") as caught:
        made(place, {"peft_config": {"name": "oft"}})
    assert "lora" in caught.value.hint
