"""The options of LLaMA-Factory's second generation (`llamafactory.v1`, 2026), and their counterparts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from luthier.core.errors import InputError, SourceLocation
from luthier.recipe.importers import import_report as reasons
from luthier.recipe.importers.import_report import EMPTY, ImportReport, map_same_names
from luthier.recipe.importers.llamafactory import KINDS, USUAL, convert_negative_layer_count
from luthier.recipe.importers.tool import ImportedDataset, TrainingTool

NAMES = map_same_names(
    "model", "blocks", "learning_rate", "max_steps", "max_grad_norm", "seed", "bf16",
) | {
    "dist_config.name": "dist_config", "dp_size": "processes",
    "command": "method", "peft_config.name": "technique", "peft_config.r": "r",
    "peft_config.lora_alpha": "lora_alpha", "peft_config.lora_dropout": "lora_dropout",
    "peft_config.target_modules": "target_modules", "peft_config.use_rslora": "use_rslora",
    "peft_config.use_dora": "use_dora", "peft_config.freeze_trainable_layers": "last_layers",
    "quant_config.quantization_bit": "bits", "cutoff_len": "max_length", "num_train_epochs": "epochs",
    "micro_batch_size": "micro_batch", "global_batch_size": "batch", "optim_config.name": "optimizer",
    "optim_config.wd": "weight_decay", "optim_config.adamw_eps": "eps", "optim_config.adamw_betas.0": "beta1",
    "optim_config.adamw_betas.1": "beta2", "optim_config.momentum": "momentum", "optim_config.nesterov": "nesterov",
    "optim_config.ns_steps": "iterations", "lr_scheduler_config.name": "lr_scheduler", "pref_loss": "loss_type",
    "pref_beta": "beta", "pref_ftx": "sft", "simpo_gamma": "gamma", "dpo_label_smoothing": "label_smoothing",
}  # fmt: skip
DEFAULTS = {
    "technique": "full", "learning_rate": 1e-4, "epochs": 3.0, "micro_batch": 1, "lr_scheduler": "constant",
    "warmup_ratio": 0.0,
    "weight_decay": 0.01, "max_grad_norm": 1.0, "seed": 42, "max_length": 2048, "truncation": "right", "bf16": True,
    "r": 8,
    "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": "all", "last_layers": 2, "train_on": "all",
}  # fmt: skip
"""A plain AdamW of torch's, at a rate that never changes."""
_CHAT = "it bounds that tool's chat, not its training"
LEFT = {
    "model_class": "language models are tuned as language models", "custom_chat_template": reasons.TEMPLATE,
    "trust_remote_code": reasons.REMOTE, "flash_attn": reasons.MEASURED, "kernel_config.*": reasons.MEASURED,
    "init_config.*": reasons.MEMORY, "enable_activation_checkpointing": reasons.MEMORY, "dist_config.*": reasons.ALONE,
    "cp_*": reasons.ALONE, "mp_*": reasons.ALONE, "dist_timeout": reasons.ALONE,
    "quant_config.*": reasons.QUANTISED, "batching_strategy": reasons.PACKED, "batching_workers": reasons.PREPARED,
    "eval_dataset": reasons.EVALUATED, "output_dir": reasons.STORED, "save_*": reasons.SAVED,
    "resume_from_checkpoint": reasons.SAVED, "logging_steps": reasons.LOGGED,
    "full_determinism": "the same recipe makes the same bytes, always", "sample_backend": _CHAT,
    "max_new_tokens": _CHAT, "ld_alpha": "tokens of an answer count alike",
    "optim_config.lr": "`learning_rate` goes before it there, too",
    "optim_config.*": "the optimizer has no such setting",
    "lr_scheduler_config.*": "a shape of the rate has no settings beyond `warmup_ratio` and `decay`",
    "peft_config.modules_to_save": "adapters hold what the technique moves; `layers` moves embeddings and head",
    "peft_config.adapter_name_or_path": "name the step that tuned the model before in `model`",
    "peft_config.export_*": reasons.STORED, "peft_config.infer_dtype": reasons.STORED,
    "peft_config.freeze_trainable_modules": "`layers` has `names`",
    "peft_config.freeze_extra_modules": "`layers` has `norms`, `head` and `embeddings`",
    "peft_config.cast_trainable_params_to_fp32": "what moves is always kept in float32",
}  # fmt: skip
OF_DATA = {
    "source": "whether a path is local is seen from the files beside the recipe", "split": "a file is read whole",
    "streaming": reasons.PREPARED, "size": "rows are not drawn at random: write `source.limit`",
    "weight": "rows are not drawn again: `epochs` repeats all of them",
}  # fmt: skip
"""Options of a data set without counterpart."""
PREFERENCES = frozenset({"pref_loss", "pref_beta", "pref_ftx", "simpo_gamma", "dpo_label_smoothing", "ld_alpha"})


def _prepared(options: dict[str, Any], name: str) -> None:
    for part in [option for option in options if option.endswith("_config")]:
        if options[part] not in EMPTY:
            options |= {f"{part}.{option}": value for option, value in _settings(options.pop(part)).items()}
    if options.get("peft_config.name") in KINDS:
        options["peft_config.name"] = KINDS[options["peft_config.name"]]
    if options.get("peft_config.freeze_trainable_modules") == "all":
        options["peft_config.freeze_trainable_modules"] = None  # what `layers` moves anyway
    convert_negative_layer_count(options, "peft_config.freeze_trainable_layers")
    for at, beta in enumerate(options.pop("optim_config.adamw_betas", None) or ()):
        options[f"optim_config.adamw_betas.{at}"] = beta
    if options.get("optim_config.name") == "muon":
        options.setdefault("optim_config.wd", 0.1)  # its own usual one, not AdamW's
    _commanded(options, name)


def _settings(part: Any) -> dict[str, Any]:
    """A part's settings, which may stand as JSON in a string."""
    return dict(json.loads(part) if isinstance(part, str) else part)


def _commanded(options: dict[str, Any], name: str) -> None:
    """What is asked for on its command line (`sft`, `dpo`, `rm`), as far as the options or the file's name tell."""
    words = name.lower().replace("-", "_").split("_")
    if PREFERENCES & options.keys() or "dpo" in words:
        form = options.get("pref_loss")
        options["command"] = options.pop("pref_loss") if form in ("orpo", "simpo") else "dpo"
    elif {"rm", "reward"} & {*words}:
        options["command"] = "reward"


def _dataset(options: dict[str, Any], account: ImportReport, folder: Path) -> ImportedDataset | None:
    """`train_dataset`: rows themselves, or a YAML file that describes several data sets."""
    named = options.pop("train_dataset", None)
    if named in EMPTY:
        return None
    account.taken[f"train_dataset: {named}"] = "steps.data.source"
    if not str(named).endswith((".yaml", ".yml")):
        return ImportedDataset(str(named), {})
    described = folder / str(named)
    if not described.is_file():  # one that lies on the hub, in a data set of this name
        return ImportedDataset(str(Path(str(named)).parent if "/" in str(named) else named), {})
    (first, entry), *others = _described(described)
    account.left.update(
        {f"{named}: {name}": "a data set has one source; put the files into one folder" for name, _ in others}
    )
    for option, value in entry.items():
        if option == "converter":
            account.left[f"{first}.{option}: {value}"] = "the layout is recognised from the columns"
            options.setdefault("command", "dpo" if value == "pair" else "sft")
        elif option in OF_DATA:
            account.left[f"{first}.{option}: {value}"] = OF_DATA[option]
        elif option != "path":
            account.unknown.append(f"{first}.{option}: {value}")
    return ImportedDataset(str(entry["path"]), {})


def _described(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """The data sets of a description, in its order."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not found or not all(isinstance(entry, dict) for entry in found.values()):
        raise InputError(
            "does not describe data sets by name", where=SourceLocation(file=str(path)), hint="name each one"
        )
    if missing := [name for name, entry in found.items() if not entry.get("path")]:
        raise InputError(
            f"says of {missing[0]!r} no `path`", where=SourceLocation(file=str(path)), hint="say where it lies"
        )
    return list(found.items())


LLAMAFACTORY_V1 = TrainingTool(
    name="LLaMA-Factory v1",
    own=frozenset({
        "model", "model_class", "train_dataset", "peft_config", "dist_config", "kernel_config", "quant_config",
        "optim_config", "init_config", "sample_backend", "batching_strategy",
    }),
    names=NAMES,
    defaults=DEFAULTS,
    usual={method: USUAL[method] for method in ("dpo", "orpo", "simpo")},
    left=LEFT,
    dataset=_dataset,
    prepared=_prepared,
    folded={"pref_loss": "command"},
)  # fmt: skip
