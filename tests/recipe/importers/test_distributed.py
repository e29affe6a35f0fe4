"""What other tuners say of many processes is kept or named as not kept; nothing of it is dropped in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.recipe.importers.distributed import build_process_settings
from luthier.recipe.importers.import_report import ImportedOption, ImportOptionReader, ImportReport
from luthier.recipe.importers.translate import translate_config
from luthier.tune.steps.tune import Tune
from tests.tiny_models import tickets, write_csv

ZERO3 = {
    "zero_optimization": {
        "stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "none"}, "overlap_comm": True,
    },
    "bf16": {"enabled": "auto"}, "gradient_clipping": "auto", "compression_training": {"x": 1},
}  # fmt: skip
BOTH = ("parts", "processes")


def built(folder: Path, fields: tuple[str, ...], **given: Any) -> tuple[dict[str, Any], dict[str, str], ImportReport]:
    account = ImportReport("a tool")
    reader = ImportOptionReader(account, {name: ImportedOption(option=name, value=one) for name, one in given.items()})
    found = build_process_settings(reader, folder, fields)
    assert reader.rest() == []
    return found, {name.partition(":")[0]: why for name, why in account.left.items()}, account


def test_a_deepspeed_file_is_read_to_its_last_key(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(json.dumps(ZERO3))
    found, left, account = built(tmp_path, BOTH, deepspeed="ds.json", processes=8)
    assert found == {"parts": "auto", "processes": 8}
    assert "kept as `parts: auto`" in left["deepspeed"]
    assert "kept: each fp32 master" in left["deepspeed"]
    assert "not kept: each process holds all weights" in left["deepspeed"]
    assert "not kept: nothing is moved to the processor's memory" in left["deepspeed"]
    for key in ("stage", "offload_optimizer", "offload_param", "overlap_comm"):
        assert f"deepspeed (ds.json).zero_optimization.{key}" in left
    assert {"deepspeed (ds.json).bf16", "deepspeed (ds.json).gradient_clipping"} <= left.keys()
    assert account.unknown == ["deepspeed (ds.json).compression_training: {'x': 1}"]


@pytest.mark.parametrize(
    ("options", "weights", "offload"),
    [
        ({"deepspeed": {"zero_optimization": {"stage": 1}}}, False, False),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, False, False),
        ({"deepspeed": "deepspeed_configs/zero3_bf16_cpuoffload_all.json"}, True, True),
        ({"deepspeed": "examples/deepspeed/ds_z2_config.json"}, False, False),
        ({"deepspeed": "unknown.json"}, True, True),
        ({"fsdp": ["full_shard", "auto_wrap"]}, True, False),
        ({"fsdp": "shard_grad_op auto_wrap"}, False, False),
        ({"fsdp": "full_shard offload"}, True, True),
        ({"fsdp_config": {"reshard_after_forward": True, "offload_params": True}}, True, True),
        ({"fsdp_config": {"fsdp_sharding_strategy": "SHARD_GRAD_OP"}}, False, False),
        ({"fsdp_config": {"reshard_after_forward": False}}, False, False),
        ({"dist_config": "fsdp2"}, True, False),
    ],
)
def test_each_stage_is_told_apart(tmp_path: Path, options: dict[str, Any], weights: bool, offload: bool) -> None:
    _, left, _ = built(tmp_path, BOTH, **options)
    text = left[next(iter(options))]
    assert ("holds all weights" in text) == weights
    assert ("processor's memory" in text) == offload
    assert text.startswith("its file is not beside" if options.get("deepspeed") == "unknown.json" else "kept as")


def test_where_one_process_trains_that_is_said(tmp_path: Path) -> None:
    found, left, _ = built(tmp_path, (), deepspeed={"zero_optimization": {"stage": 2}}, shard_size=4, replicate_size=2)
    assert found == {}
    assert left["deepspeed"].startswith("not kept: one process trains here")
    assert left["shard_size"].startswith("one process trains")


def test_sizes_of_shards_are_multiplied(tmp_path: Path) -> None:
    found, _, account = built(tmp_path, BOTH, fsdp_config={"offload_params": False}, shard_size=4, replicate_size=2)
    assert found == {"parts": "auto", "processes": 8}
    assert account.taken == {"shard_size: 4": "steps.tune.processes", "replicate_size: 2": "steps.tune.processes"}


@pytest.mark.parametrize("tool", ["axolotl", "trl", "llamafactory"])
def test_a_file_with_deepspeed_becomes_a_recipe_that_says_what_became_of_it(tmp_path: Path, tool: str) -> None:
    write_csv(tmp_path / "rows.csv", [{"instruction": r["message"], "output": r["category"]} for r in tickets(20)])
    (tmp_path / "ds_z3_config.json").write_text(json.dumps(ZERO3))
    files: dict[str, dict[str, Any]] = {
        "axolotl": {
            "base_model": "m", "adapter": "lora", "micro_batch_size": 2, "num_epochs": 1, "sequence_len": 64,
            "datasets": [{"path": "csv", "data_files": "rows.csv", "type": "alpaca"}],
        },
        "trl": {
            "model_name_or_path": "m", "dataset_name": "rows.csv", "use_peft": True, "lora_r": 4,
            "per_device_train_batch_size": 2, "num_train_epochs": 1,
        },
        "llamafactory": {
            "model_name_or_path": "m", "stage": "sft", "finetuning_type": "lora", "dataset": "rows", "template": "qwen",
            "cutoff_len": 64, "dataset_dir": ".", "per_device_train_batch_size": 2,
        },
    }  # fmt: skip
    (tmp_path / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.csv"}}))
    options = files[tool] | {"deepspeed": "ds_z3_config.json", "fsdp": ""}
    made = translate_config(options, tmp_path / "config.yaml", tmp_path / "new")
    comments = [line for line in made.text.splitlines() if line.startswith("#")]
    assert any("deepspeed: ds_z3_config.json" in line and "kept" in line for line in comments)
    assert any("offload_optimizer" in line for line in comments)
    assert ("parts" in yaml.safe_load(made.text)["steps"]["tune"]) == ("parts" in Tune.model_fields)
