"""TRL's options (`trl sft --config`, and those of its other trainers, TRL 1.16), and their counterparts.

It takes all of transformers' training arguments; those have their names from there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.recipe.importers import import_report as reasons
from luthier.recipe.importers import trainers
from luthier.recipe.importers.import_report import EMPTY, ImportReport, map_same_names
from luthier.recipe.importers.tool import ImportedDataset, TrainingTool


class _Boundless(int):
    """So many tokens as no row has; an account tells it as it stood in the file."""

    def __str__(self) -> str:
        return "null (nothing is cut)"


NO_LIMIT = _Boundless(1 << 20)
"""Tokens of a row that nothing bounds."""
ARGUMENTS = map_same_names(
    "learning_rate", "max_steps", "warmup_ratio", "warmup_steps", "weight_decay", "max_grad_norm", "seed", "bf16",
    "report_to",
) | {
    "num_train_epochs": "epochs", "per_device_train_batch_size": "micro_batch",
    "gradient_accumulation_steps": "accumulation", "lr_scheduler_type": "lr_scheduler", "optim": "optimizer",
    "adam_beta1": "beta1", "adam_beta2": "beta2", "adam_epsilon": "eps", "early_stopping_patience": "patience",
    "deepspeed": "deepspeed", "fsdp": "fsdp", "fsdp_config": "fsdp_config",
}  # fmt: skip
"""transformers' training arguments with a counterpart."""
ARGUMENTS_LEFT = {
    "output_dir": reasons.STORED, "overwrite_output_dir": reasons.STORED, "push_to_hub*": reasons.STORED,
    "hub_*": reasons.STORED, "run_name": reasons.TRACKED, "project": reasons.TRACKED,
    "trackio_*": reasons.TRACKED, "logging_*": reasons.LOGGED, "log_*": reasons.LOGGED, "disable_tqdm": reasons.LOGGED,
    "save_*": reasons.SAVED, "resume_from_checkpoint": reasons.SAVED, "ignore_data_skip": reasons.SAVED,
    "load_best_model_at_end": "a held-out metric keeps the best state", "metric_for_best_model": reasons.EVALUATED,
    "greater_is_better": reasons.EVALUATED, "eval_*": reasons.EVALUATED, "evaluation_strategy": reasons.EVALUATED,
    "do_train": "`luthier run` trains", "do_eval": reasons.EVALUATED, "do_predict": reasons.EVALUATED,
    "per_device_eval_batch_size": reasons.MEMORY, "batch_eval_metrics": reasons.EVALUATED,
    "gradient_checkpointing*": reasons.MEMORY, "activation_*": reasons.MEMORY, "auto_find_batch_size": reasons.MEMORY,
    "torch_empty_cache_steps": reasons.MEMORY, "dataloader_*": reasons.PREPARED, "data_seed": "one seed decides all",
    "remove_unused_columns": reasons.PREPARED, "train_sampling_strategy": reasons.PACKED,
    "group_by_length": reasons.PACKED, "length_column_name": reasons.PACKED, "label_names": reasons.PREPARED,
    "tf32": reasons.MEASURED, "torch_compile*": reasons.MEASURED, "use_liger_kernel": reasons.MEASURED,
    "liger_kernel_config": reasons.MEASURED, "attn_implementation": reasons.MEASURED, "use_cpu": reasons.MEASURED,
    "fp16*": "a model computes in bfloat16 or float32 here", "bf16_full_eval": reasons.EVALUATED,
    "fsdp_*": reasons.ALONE, "ddp_*": reasons.ALONE, "local_rank": reasons.ALONE,
    "accelerator_config": reasons.ALONE, "parallelism_config": reasons.ALONE,
    "average_tokens_across_devices": "the loss is divided by the learnt tokens of the whole step, always",
    "full_determinism": "the same recipe makes the same bytes, always",
    "neftune_noise_alpha": "noise on embeddings is not among the techniques",
    "label_smoothing_factor": "labels are not smoothed", "trust_remote_code": reasons.REMOTE,
    "lr_scheduler_kwargs": "a shape of the rate has no settings beyond `warmup_ratio` and `decay`",
    "optim_args": "the optimizer's settings stand in `optimizer`",
    "optim_target_modules": "the technique says what moves",
}  # fmt: skip
"""transformers' training arguments without one."""
NAMES = ARGUMENTS | map_same_names(
    "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "max_length", "dtype", "train_on", "normalize",
) | {
    "model_name_or_path": "model", "model_revision": "revision", "use_peft": "technique", "load_in_4bit": "4bit",
    "load_in_8bit": "8bit", "lora_r": "r", "lora_target_modules": "target_modules", "max_seq_length": "max_length",
    "truncation_mode": "truncation", "torch_dtype": "dtype", "trainer": "method", "test_split_size": "held",
    "system_prompt": "system", **trainers.NAMES,
}  # fmt: skip
DEFAULTS = {
    "learning_rate": 2e-5, "epochs": 3.0, "micro_batch": 8, "accumulation": 1, "lr_scheduler": "linear",
    "warmup_ratio": 0.0,
    "weight_decay": 0.0, "max_grad_norm": 1.0, "seed": 42, "max_length": 1024, "truncation": "right", "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05, "train_on": "all",
}  # fmt: skip
_PROMPTS = "prompts are never learnt; those of `messages` are there, unless `assistant_only_loss` is true"
LEFT = {**ARGUMENTS_LEFT, **trainers.LEFT} | {
    "packing*": reasons.PACKED, "eval_packing": reasons.PACKED, "padding_free": reasons.PACKED,
    "pad_to_multiple_of": reasons.PACKED, "pad_token": reasons.TOKENS, "eos_token": reasons.TOKENS,
    "chat_template_path": reasons.TEMPLATE, "dataset_kwargs": reasons.PREPARED, "dataset_num_proc": reasons.PREPARED,
    "dataset_streaming": reasons.PREPARED, "shuffle_dataset": "rows are taken in an order that follows from the seed",
    "model_init_kwargs": reasons.MEASURED, "lora_task_type": "language models are tuned as language models",
    "lora_modules_to_save": "adapters hold what the technique moves; `layers` moves embeddings and head",
    "lora_target_parameters": "adapters stand beside layers", "bnb_4bit_*": reasons.QUANTISED,
    "use_bnb_nested_quant": reasons.QUANTISED, "ignore_bias_buffers": reasons.ALONE,
    "completion_only_loss": _PROMPTS, "assistant_only_loss": _PROMPTS,
    "router_aux_loss_coef": "routers are not balanced while tuning", "dataset_config": "a file is read whole",
    "dataset_train_split": "a file is read whole", "dataset_test_split": reasons.EVALUATED,
    "dataset_split*": "a file is read whole", "dataset_configs": "a file is read whole",
    "dataset_prompt_column": "name the columns in `source.prompt` and `source.answer`",
    "chat_template": reasons.TEMPLATE, "wandb_*": reasons.TRACKED, "use_flash_attention_2": reasons.MEASURED,
    "code_*": reasons.CODE, "callbacks": reasons.CODE, "benchmarks": reasons.EVALUATED,
    "preprocessing_num_workers": reasons.PREPARED,
}  # fmt: skip


def _prepared(options: dict[str, Any], name: str) -> None:
    if (trainer := trainers.detect_trainer_objective(options, name)) != "sft":
        options["trainer"] = trainer
    trainers.merge_loss_list(options)
    _refined(options, trainer)
    convert_null_limits(options)
    options["use_peft"] = "lora" if options.get("use_peft") else "full"
    if "truncation_mode" in options:
        options["truncation_mode"] = {"keep_start": "right", "keep_end": "prompt"}.get(
            options["truncation_mode"], options["truncation_mode"]
        )


def convert_null_limits(options: dict[str, Any]) -> None:
    """Convert limits that are null in the other tool's file to explicit "no limit" values."""
    for option, none in (("max_length", NO_LIMIT), ("max_seq_length", NO_LIMIT), ("max_grad_norm", 0.0)):
        if option in options and options[option] is None:
            options[option] = none


def _refined(options: dict[str, Any], trainer: str) -> None:
    """Spellings that mean a setting of another name here."""
    for option, learn in (("completion_only_loss", "last"), ("assistant_only_loss", "all")):
        if trainer == "sft" and options.get(option):
            del options[option]
            options["train_on"] = learn
    if options.get("loss_type") == "sigmoid_norm":
        options |= {"loss_type": "sigmoid", "normalize": "mean"}
    if trainer == "simpo":
        options.pop("loss_type", None)  # it is what says so
    if isinstance(beta := options.get("beta"), list) and beta:
        options["beta"] = beta[0]


def _dataset(options: dict[str, Any], account: ImportReport, folder: Path) -> ImportedDataset | None:
    """`dataset_name`, or the first of a mixture."""
    settings: dict[str, Any] = {}
    if (column := options.pop("dataset_text_field", None)) not in EMPTY and column != "text":
        account.taken[f"dataset_text_field: {column}"] = "steps.data.source.answer"
        settings["answer"] = column
    mixture = _mixture(options, account)
    for at, entry in enumerate(mixture[1:], start=1):
        account.left[f"datasets.{at}: {entry}"] = "a data set has one source; put the files into one folder"
    if mixture:
        first = dict(mixture[0])
        path = str(first.pop("path", None) or first.pop("id", ""))
        files = first.pop("data_files", None)
        where = str(files[0] if isinstance(files, list) else files) if files else path
        account.taken[f"datasets.0: {where}"] = "steps.data.source.path"
        for option, value in first.items():
            account.left[f"datasets.0.{option}: {value}"] = "a file is read whole, and its layout recognised"
        return ImportedDataset(where, settings, path if files else None)
    name = options.pop("dataset_name", None)
    if not {"trainer", "train_on", "assistant_only_loss"} & options.keys():
        account.left["assistant_only_loss: False (its default)"] = _PROMPTS
    if name in EMPTY:
        return None
    account.taken[f"dataset_name: {name}"] = "steps.data.source.path"
    return ImportedDataset(str(name), settings)


def _mixture(options: dict[str, Any], account: ImportReport) -> list[dict[str, Any]]:
    """Several data sets: a list of TRL's, or what recipes of the alignment handbook call a mixture or a mixer."""
    mixture = options.pop("dataset_mixture", None) or {}
    if "test_split_size" in mixture:
        options["test_split_size"] = mixture["test_split_size"]
    for option, value in mixture.items():
        if option not in ("datasets", "test_split_size"):
            account.left[f"dataset_mixture.{option}: {value}"] = "one seed decides all"
    mixer = options.pop("dataset_mixer", None) or {}
    named = [{"path": name, "weight": share} for name, share in mixer.items()]
    return options.pop("datasets", None) or mixture.get("datasets") or named


_OWN = frozenset({
    "model_name_or_path", "dataset_name", "use_peft", "lora_r", "lora_target_modules", "max_length",
    "dataset_mixture", "dataset_mixer", "max_seq_length", "torch_dtype", "attn_implementation",
    "max_prompt_length", "max_completion_length", "num_generations",
})  # fmt: skip


TRL = TrainingTool(
    name="TRL",
    own=_OWN,
    names=NAMES,
    defaults=DEFAULTS,
    usual=trainers.USUAL,
    left=LEFT,
    dataset=_dataset,
    prepared=_prepared,
    folded={"loss_type": "trainer", "assistant_only_loss": "train_on", "completion_only_loss": "train_on"},
)
