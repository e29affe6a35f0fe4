"""Files of axolotl, TRL and LLaMA-Factory become recipes that load and plan; no option is dropped in silence."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.cli.app import run_command
from luthier.core.errors import InputError
from luthier.recipe.importers.translate import TOOLS, translate_config
from luthier.recipe.importers.trl import NO_LIMIT
from luthier.recipe.schema import Recipe
from luthier.tune.training.schedule import BatchSampler
from tests.tiny_models import tickets, tiny_model

HERE = Path(__file__).parent / "importers"
NAMES = ("axolotl", "trl", "llamafactory")
WANTED: dict[str, dict[str, Any]] = {
    "axolotl": {
        "seed": 1234,
        "steps.data.source": {"kind": "jsonl", "path": "../foreign/data/alpaca.jsonl"},
        "steps.data.split": {"test": 0.1},
        "steps.tune.technique": {
            "kind": "lora",
            "r": 32,
            "lora_alpha": 16.0,
            "lora_dropout": 0.05,
            "use_rslora": True,
            "loraplus_lr_ratio": 16.0,
            "target_modules": "all-linear",
        },
        "steps.tune.objective": {"kind": "sft", "max_length": 2048, "train_on": "all"},
        "steps.tune.optimizer": {"kind": "adamw8bit", "weight_decay": 0.01, "betas": [0.9, 0.95]},
        "steps.tune.batch_size": 8,
        "steps.tune.epochs": 3.0,
        "steps.tune.learning_rate": 0.0002,
        "steps.tune.lr_scheduler": "cosine",
        "steps.tune.warmup_steps": 3,
        "steps.tune.max_grad_norm": 0.5,
        "steps.tune.report_to": [{"kind": "wandb", "project": "mine"}],
        "steps.tune.dtype": "auto",
    },
    "trl": {
        "seed": 42,
        "steps.data.source": {"kind": "jsonl", "path": "../foreign/data/chat.jsonl"},
        "steps.data.split": {"test": 0},
        "steps.tune.technique": {
            "kind": "lora",
            "r": 8,
            "lora_alpha": 24.0,
            "lora_dropout": 0.05,
            "use_dora": True,
            "target_modules": ["q_proj", "v_proj"],
        },
        "steps.tune.objective": {"kind": "sft", "max_length": 512, "truncation": "right", "train_on": "all"},
        "steps.tune.optimizer": {"kind": "adamw", "weight_decay": 0.0},
        "steps.tune.batch_size": 16,
        "steps.tune.lr_scheduler": "wsd",
        "steps.tune.warmup_ratio": 0.05,
        "steps.tune.dtype": "float32",
    },
    "llamafactory": {
        "steps.data.source": {
            "kind": "csv",
            "path": "../foreign/data/pairs.csv",
            "prompt": "ask",
            "answer": "say",
            "limit": 30,
        },
        "steps.data.split": {"test": 6},
        "steps.tune.technique": {
            "kind": "lora",
            "r": 8,
            "lora_alpha": 16.0,
            "lora_dropout": 0.0,
            "init_lora_weights": "pissa",
            "target_modules": ["q_proj", "v_proj"],
        },
        "steps.tune.objective": {"kind": "sft", "max_length": 1024, "truncation": "right", "train_on": "last"},
        "steps.tune.optimizer": {"kind": "adamw", "weight_decay": 0.0},
        "steps.tune.batch_size": 8,
        "steps.tune.warmup_ratio": 0.1,
        "steps.tune.dtype": "bfloat16",
    },
}
LEFT = {
    "axolotl": {
        "sample_packing: True": "always on and exact", "flash_attention: True": "by measuring",
        "gradient_checkpointing: True": "memory is planned", "logging_steps: 1": "every step is logged",
        "my_own_option: 7": "unknown to this importer", "datasets.0.type: alpaca": "recognised from the columns",
    },
    "trl": {
        "packing: True": "always on", "report_to: none": "one by one", "invented_here: True": "unknown",
        "eval_steps: 50": "measures what is held",
    },
    "llamafactory": {
        "dataset: identity": "one source", "lr_scheduler_type: polynomial": "no such schedule",
        "optim: lion_32bit": "no such optimizer", "template: qwen": "the model's own", "sweet_dreams: 3": "unknown",
    },
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fixtures beside the data and the model that they name."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(HERE, tmp_path / "foreign")
    tiny_model(tmp_path / "tiny-model")
    data, rows = tmp_path / "foreign" / "data", tickets(50)
    data.mkdir(exist_ok=True)
    lines = {
        "alpaca": [{"instruction": row["message"], "input": "", "output": row["category"]} for row in rows],
        "chat": [
            {"messages": [{"role": "user", "content": row["message"]}, {"role": "assistant", "content": "Yes."}]}
            for row in rows
        ],
    }
    for name, found in lines.items():
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    (data / "pairs.csv").write_text("ask,say\n" + "".join(f"{row['message']},ok\n" for row in rows), encoding="utf-8")
    columns = {"pairs": {"file_name": "pairs.csv", "columns": {"prompt": "ask", "response": "say"}}}
    (data / "dataset_info.json").write_text(json.dumps(columns), encoding="utf-8")
    return tmp_path


def _at(recipe: dict[str, Any], path: str) -> Any:
    found: Any = recipe
    for part in path.split("."):
        found = found[part]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_what_is_asked_for_stands_in_the_recipe(place: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["new", "mine", "--from", f"foreign/{name}.yaml"]) == 0
    said = capsys.readouterr().out
    text = (place / "mine" / "recipe.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(text)
    assert recipe["model"] == "../tiny-model"
    assert {path: _at(recipe, path) for path in WANTED[name]} == WANTED[name]
    for option, why in LEFT[name].items():
        line = next(line for line in text.splitlines() if line.startswith(f"#   {option}"))
        assert why in line
        assert line.removeprefix("#   ") in said
    planned = Recipe.load(place / "mine").plan()
    assert [step.name for step in planned][:3] == ["data", "model", "tune"]
    assert ("report" in recipe["steps"]) is (name != "trl")


@pytest.mark.parametrize("name", NAMES)
def test_every_option_stands_in_the_account_once(place: Path, name: str) -> None:
    file = place / "foreign" / f"{name}.yaml"
    options = yaml.safe_load(file.read_text(encoding="utf-8"))
    text = translate_config(options, file, place / "mine").text
    comments = [line for line in text.splitlines() if line.startswith("#   ")]
    for option in options:
        lines = [line for line in comments if re.search(rf"(^#   |[ ,]){option}(\.|:|,|$| )", line)]
        assert lines, f"{option} is dropped in silence"


def test_every_name_of_the_tables_has_a_builder(place: Path) -> None:
    """What a table calls by a common name is either built or said to be left; nothing falls between."""
    for tool in TOOLS:
        assert not set(tool.names) & set(tool.left), tool.name
        for option, why in tool.left.items():
            assert len(why) > 10, option


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("rl: ebft", "'ebft'"),
        ("process_reward_model: true", "'process_reward_model'"),
        ("adapter: llama-adapter", "'llama-adapter'"),
        ("base_model:", "names no model"),
        ("datasets: []", "names no data set"),
    ],
)
def test_what_cannot_be_imported_is_refused(place: Path, change: str, said: str) -> None:
    file = place / "foreign" / "axolotl.yaml"
    options = yaml.safe_load(file.read_text(encoding="utf-8")) | yaml.safe_load(change)
    with pytest.raises(InputError, match=said):
        translate_config(options, file, place / "mine")


def test_other_yaml_and_own_recipes_are_told_apart(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "other.yaml").write_text("services: {web: {image: nginx}}\n")
    assert run_command(["new", "mine", "--from", "other.yaml"]) == 2
    assert "axolotl, LLaMA-Factory, LLaMA-Factory v1, TRL" in capsys.readouterr().err
    (place / "own.yaml").write_text("luthier: 1\nsteps: {}\n")
    assert run_command(["new", "mine", "--from", "own.yaml"]) == 2
    assert "already" in capsys.readouterr().err
    assert run_command(["new", "mine", "--from", "foreign/trl.yaml", "--model", "x/y"]) == 2
    assert not (place / "mine").exists()


@pytest.mark.parametrize(
    ("told", "source"),
    [
        ({"path": "org/set", "type": "alpaca"}, {"kind": "jsonl", "path": "data/org--set.jsonl"}),
        (
            {"path": "json", "data_files": ["data/alpaca.jsonl"], "type": "completion", "field": "output"},
            {"kind": "jsonl", "path": "../foreign/data/alpaca.jsonl", "answer": "output"},
        ),
        (
            {
                "path": "data/pairs.csv",
                "type": {"field_instruction": "ask", "field_output": "say", "system_prompt": "S"},
            },
            {"kind": "csv", "path": "../foreign/data/pairs.csv", "prompt": "ask", "answer": "say", "system": "S"},
        ),
        (
            {
                "path": "data/chat.jsonl",
                "type": "chat_template",
                "field_messages": "messages",
                "roles": {"user": ["u"]},
            },
            {"kind": "jsonl", "path": "../foreign/data/chat.jsonl", "messages": "messages"},
        ),
    ],
)
def test_data_of_axolotl_is_found(place: Path, told: dict[str, Any], source: dict[str, Any]) -> None:
    file = place / "foreign" / "axolotl.yaml"
    options = yaml.safe_load(file.read_text(encoding="utf-8")) | {"datasets": [told]}
    made = translate_config(options, file, place / "mine")
    assert yaml.safe_load(made.text)["steps"]["data"]["source"] == source
    assert ("is not beside that file" in made.text) is (told["path"] == "org/set")


@pytest.mark.parametrize(
    ("change", "path", "value"),
    [
        ({"adapter": "qlora", "load_in_4bit": True}, "tune.technique.bits", 4),
        ({"adapter": "lora", "load_in_8bit": True}, "tune.technique.bits", 8),
        ({"adapter": None}, "tune.technique", {"kind": "full"}),
        ({"early_stopping_patience": 3}, "tune.validation", {"patience": 3}),
        ({"early_stopping_patience": 3}, "data.split", {"test": 0.1, "validation": 0.1}),
        ({"use_tensorboard": True, "wandb_project": None}, "tune.report_to", ["tensorboard"]),
        ({"optimizer": "schedule_free_adamw"}, "tune.optimizer.kind", "schedule_free"),
        ({"peft_init_lora_weights": "pissa"}, "tune.technique.init_lora_weights", "pissa"),
        ({"excess_length_strategy": "truncate"}, "tune.objective.truncation", "right"),
        (
            {"excess_length_strategy": "raise"},
            "tune.objective",
            {"kind": "sft", "max_length": 2048, "train_on": "all"},
        ),
        ({"batch_size": 48}, "tune.batch_size", 48),
        ({"warmup_steps": None, "warmup_ratio": 0.2}, "tune.warmup_ratio", 0.2),
        ({"revision_of_model": "abc"}, "model.revision", "abc"),
    ],
)
def test_other_wishes_are_met(place: Path, change: dict[str, Any], path: str, value: Any) -> None:
    file = place / "foreign" / "axolotl.yaml"
    options = yaml.safe_load(file.read_text(encoding="utf-8")) | {"base_model": "org/model"} | change
    (place / "mine").mkdir()
    (place / "mine" / "recipe.yaml").write_text(translate_config(options, file, place / "mine").text, encoding="utf-8")
    recipe = yaml.safe_load((place / "mine" / "recipe.yaml").read_text(encoding="utf-8"))
    assert _at(recipe if path.startswith("model") else recipe["steps"], path) == value
    Recipe.load(place / "mine")


HANDBOOK: dict[str, Any] = {
    "model_name_or_path": "org/model", "torch_dtype": "bfloat16", "attn_implementation": "sdpa", "max_seq_length": 64,
    "chat_template": "{{ messages }}", "wandb_entity": "us", "system_prompt": "Be brief.", "warmup_ratio": 0.1,
}  # fmt: skip
"""What recipes of the alignment handbook and of open-r1 add to TRL's options."""


@pytest.mark.parametrize(
    ("data", "path", "held", "left"),
    [
        ({"dataset_mixer": {"org/a": 1.0, "org/b": 0.5}}, "data/org--a.jsonl", 0, ["datasets.1"]),
        (
            {
                "dataset_mixture": {
                    "datasets": [{"id": "org/a", "split": "train", "weight": 1.0}, {"id": "org/b"}],
                    "test_split_size": 20,
                    "seed": 3,
                }
            },
            "data/org--a.jsonl",
            20,
            ["datasets.0.split", "datasets.0.weight", "datasets.1", "dataset_mixture.seed"],
        ),
    ],
)
def test_recipes_of_the_handbook_are_files_of_trl(
    place: Path, data: dict[str, Any], path: str, held: int, left: list[str]
) -> None:
    made = translate_config(HANDBOOK | data, place / "config_full.yaml", place / "mine")
    recipe = yaml.safe_load(made.text)
    Recipe.model_validate(recipe)
    assert made.account.tool == "TRL"
    assert not made.account.unknown
    assert recipe["steps"]["data"]["source"] == {"kind": "jsonl", "path": path, "system": "Be brief."}
    assert recipe["steps"]["data"]["split"] == {"test": held}
    assert recipe["steps"]["tune"]["technique"] == {"kind": "full"}
    for option in left:
        assert any(told.startswith(f"{option}:") for told in made.account.left), option


@pytest.mark.parametrize(
    ("change", "warmup"),
    [
        ({}, 0.03),  # axolotl's own, where neither is given
        ({"warmup_ratio": 0.0}, 0.0),
        ({"warmup_steps": 0}, 0.0),
        ({"warmup_steps": 0.2}, 0.2),
    ],
)
def test_the_rate_rises_as_axolotl_lets_it_rise(place: Path, change: dict[str, Any], warmup: float) -> None:
    file = place / "foreign" / "axolotl.yaml"
    options = yaml.safe_load(file.read_text(encoding="utf-8"))
    kept = {option: value for option, value in options.items() if not option.startswith("warmup")}
    recipe = yaml.safe_load(translate_config(kept | change, file, place / "mine").text)
    assert recipe["steps"]["tune"]["warmup_ratio"] == warmup


@pytest.mark.parametrize(
    ("change", "path", "value"),
    [
        ({}, "objective", {"kind": "sft", "max_length": 1024, "truncation": "right", "train_on": "all"}),
        ({"completion_only_loss": True}, "objective.train_on", "last"),
        ({"max_length": None}, "objective.max_length", NO_LIMIT),
        ({"max_grad_norm": None}, "max_grad_norm", None),
    ],
)
def test_what_trl_does_where_a_file_is_silent_or_empty(
    place: Path, change: dict[str, Any], path: str, value: Any
) -> None:
    """Of messages every answer is learnt, and an empty bound is none."""
    options = {"model_name_or_path": "org/model", "dataset_name": "org/rows", **change}
    made = translate_config(options, place / "sft.yaml", place / "mine")
    assert _at({"max_grad_norm": None} | yaml.safe_load(made.text)["steps"]["tune"], path) == value
    told = [option for option in made.account.left if option.startswith("assistant_only_loss")]
    assert bool(told) is ("completion_only_loss" not in change), "prompts of messages are learnt there"
    assert ("max_length: null (nothing is cut)" in made.account.taken) is ("max_length" in change)
    Recipe.model_validate(yaml.safe_load(made.text))


@pytest.mark.parametrize(
    ("number", "technique"),
    [(-2, {"last": 0, "blocks": [0, 1]}), (3, {"last": 3}), (None, {"last": 2})],
)
def test_layers_of_llamafactory_are_the_last_or_the_first(
    place: Path, number: int | None, technique: dict[str, Any]
) -> None:
    file = place / "foreign" / "llamafactory.yaml"
    options = yaml.safe_load(file.read_text(encoding="utf-8")) | {
        "model_name_or_path": "org/model", "finetuning_type": "freeze", "freeze_trainable_layers": number,
        "lora_target": None, "pissa_init": None,
    }  # fmt: skip
    recipe = yaml.safe_load(translate_config(options, file, place / "mine").text)
    assert recipe["steps"]["tune"]["technique"] == {"kind": "layers", **technique}
    Recipe.model_validate(recipe)


def test_layers_that_a_file_leaves_to_peft_are_told(place: Path) -> None:
    options = {"model_name_or_path": "org/model", "use_peft": True, "dataset_name": "org/rows"}
    made = translate_config(options, place / "sft.yaml", place / "mine")
    assert "targets" not in yaml.safe_load(made.text)["steps"]["tune"]["technique"]
    assert any("lora_target_modules" in told and "PEFT" in told for told in made.account.left)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lora_target_linear": True, "lora_target_modules": ["q_proj"]}, "lora_target_modules.named: ['q_proj']: no"),
        ({"lora_target_linear": True}, "lora_target_linear: True -> lora_target_modules"),
        ({"lora_target_linear": None}, "without a value there: lora_target_linear"),
    ],
)
def test_options_that_mean_another_one_are_told_as_well(place: Path, change: dict[str, Any], told: str) -> None:
    options = {"base_model": "org/model", "adapter": "lora", "datasets": [{"path": "org/rows"}]} | change
    assert f"#   {told}" in translate_config(options, place / "lora.yaml", place / "mine").text


@pytest.mark.parametrize(
    ("rows", "change", "wanted"),
    [
        (
            "org/rows",
            {"max_steps": 10, "warmup_steps": 2},
            {"epochs": 1000.0, "max_steps": 10, "warmup_steps": 2},
        ),
        (
            "data/alpaca.jsonl",
            {"max_steps": 10, "warmup_steps": 2},
            {"epochs": 2.0, "max_steps": 10, "warmup_steps": 2},
        ),
        ("data/alpaca.jsonl", {"max_steps": 3}, {"epochs": 1.0, "max_steps": 3}),
        ("data/alpaca.jsonl", {"max_steps": -1}, {"epochs": 1.0, "max_steps": None}),
    ],
)
def test_a_number_of_steps_goes_before_epochs(
    place: Path, rows: str, change: dict[str, Any], wanted: dict[str, float]
) -> None:
    """Steps of eight rows, over rows that are not here yet and over fifty that are."""
    options = {"base_model": "org/model", "micro_batch_size": 8, "datasets": [{"path": rows}], **change}
    made = translate_config(options, place / "foreign" / "axolotl.yaml", place / "mine")
    step = yaml.safe_load(made.text)["steps"]["tune"]
    Recipe.model_validate(yaml.safe_load(made.text))
    assert {name: step.get(name) for name in wanted} == wanted
    assert "max_train_samples" not in step
    sampler = BatchSampler(
        seed=0,
        count=50,
        epochs=step["epochs"],
        batch_size=step["batch_size"],
        max_steps=step.get("max_steps"),
    )
    assert sampler.steps == (change["max_steps"] if change["max_steps"] > 0 else 7)


def test_muon_of_llamafactory_is_an_optimizer(place: Path) -> None:
    options = {"model_name_or_path": "org/model", "finetuning_type": "full", "dataset": "rows", "use_muon": True}
    made = translate_config(options, place / "full.yaml", place / "mine")
    assert yaml.safe_load(made.text)["steps"]["tune"]["optimizer"]["kind"] == "muon"


@pytest.mark.parametrize("told", ["org/texts", [{"path": "org/texts", "text_column": "story", "type": "pretrain"}]])
def test_texts_to_go_on_with_are_a_data_set_of_axolotl(place: Path, told: Any) -> None:
    options = {"base_model": "org/model", "micro_batch_size": 1, "pretraining_dataset": told, "pretrain_multipack": 1}
    made = translate_config(options, place / "pretrain.yaml", place / "mine")
    source = yaml.safe_load(made.text)["steps"]["data"]["source"]
    answer = "text" if isinstance(told, str) else "story"
    assert source == {"kind": "jsonl", "path": "data/org--texts.jsonl", "answer": answer}
    assert not made.account.unknown


def test_an_option_is_told_once_with_its_whole_value(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = "base_model: ../tiny-model\ndatasets: [{path: foreign/data/alpaca.jsonl, type: alpaca}]\nadapter: lora\n"
    (place / "mine.yaml").write_text(told + "micro_batch_size: 4\nnum_epochs: 1\nmy_share: 0.25\n", encoding="utf-8")
    assert run_command(["new", "mine", "--from", "mine.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "  · my_share: 0.25: unknown to this importer, and ignored\n" in shown
    assert "  · datasets.0.type: alpaca: no counterpart: " in shown
