"""axolotl's options (its schema of 2025), and their counterparts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.recipe.importers import import_report as reasons
from luthier.recipe.importers import trainers
from luthier.recipe.importers.import_report import EMPTY, ImportReport, map_same_names
from luthier.recipe.importers.tool import ImportedDataset, TrainingTool

NAMES = map_same_names(
    "lora_alpha", "lora_dropout", "loraplus_lr_ratio", "learning_rate", "max_steps", "lr_scheduler", "warmup_ratio",
    "warmup_steps", "weight_decay", "optimizer", "max_grad_norm", "seed", "bf16",
) | {
    "deepspeed": "deepspeed", "fsdp": "fsdp", "fsdp_config": "fsdp_config", "world_size": "processes",
    "dp_shard_size": "shard_size", "dp_replicate_size": "replicate_size",
    "base_model": "model", "revision_of_model": "revision", "adapter": "technique", "load_in_4bit": "4bit",
    "load_in_8bit": "8bit", "lora_r": "r", "lora_target_modules": "target_modules", "peft_use_rslora": "use_rslora",
    "peft_use_dora": "use_dora", "peft_init_lora_weights": "init_lora_weights", "num_epochs": "epochs",
    "micro_batch_size": "micro_batch", "batch_size": "batch", "gradient_accumulation_steps": "accumulation",
    "adam_beta1": "beta1", "adam_beta2": "beta2", "adam_epsilon": "eps", "sequence_len": "max_length",
    "excess_length_strategy": "truncation", "val_set_size": "held", "bfloat16": "bf16", "torch_dtype": "dtype",
    "early_stopping_patience": "patience", "default_system_message": "system", "wandb_project": "wandb",
    "use_tensorboard": "tensorboard", "use_mlflow": "mlflow", "rl": "method", "reward_model": "method",
    "process_reward_model": "method", "rl_beta": "beta", "dpo_beta": "beta", "orpo_alpha": "beta",
    "dpo_label_smoothing": "label_smoothing", "dpo_norm_loss": "normalize", "dpo_loss_type": "loss_type",
    "rpo_alpha": "sft", "cpo_alpha": "sft", "simpo_gamma": "gamma", "kto_desirable_weight": "desirable_weight",
    "kto_undesirable_weight": "undesirable_weight", "max_prompt_len": "max_prompt_length",
    "freeze_mm_modules": "freeze_vision", "freeze_mm_modules.projector": "freeze_projector", "image_size": "max_pixels",
    "center_rewards_coefficient": "center", **{f"trl.{name}": common for name, common in trainers.NAMES.items()},
}  # fmt: skip
DEFAULTS = {
    "epochs": 1.0, "micro_batch": 1, "accumulation": 1, "lr_scheduler": "cosine", "max_length": 512,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0, "lora_dropout": 0.0, "train_on": "all", "seed": 42, "warmup_ratio": 0.03,
}  # fmt: skip
LEFT = {
    "sample_packing*": reasons.PACKED, "eval_sample_packing": reasons.PACKED, "pad_to_sequence_len": reasons.PACKED,
    "multipack_real_batches": reasons.PACKED, "batch_flattening": reasons.PACKED,
    "pretraining_sample_concatenation": reasons.PACKED, "group_by_length": reasons.PACKED,
    "flash_*": reasons.MEASURED, "xformers_attention": reasons.MEASURED, "sdp_attention": reasons.MEASURED,
    "s2_attention": reasons.MEASURED, "flex_*": reasons.MEASURED, "eager_attention": reasons.MEASURED,
    "attn_implementation": reasons.MEASURED, "lora_*_kernel": reasons.MEASURED,
    "unsloth_*": reasons.MEASURED,
    "liger_*": reasons.MEASURED, "cut_cross_entropy": reasons.MEASURED, "torch_compile*": reasons.MEASURED,
    "tf32": reasons.MEASURED, "plugins": "parts of Luthier are components; other packages bring theirs by entry points",
    "gradient_checkpointing*": reasons.MEMORY, "auto_find_batch_size": reasons.MEMORY, "max_memory": reasons.MEMORY,
    "gpu_memory_limit": reasons.MEMORY, "low_cpu_mem_usage": reasons.MEMORY, "lora_on_cpu": reasons.MEMORY,
    "gc_steps": reasons.MEMORY, "eval_batch_size": reasons.MEMORY,
    "save_*": reasons.SAVED, "saves_per_epoch": reasons.SAVED, "resume_from_checkpoint": reasons.SAVED,
    "auto_resume_from_checkpoints": reasons.SAVED, "load_best_model_at_end": "a held-out metric keeps the best state",
    "logging_steps": reasons.LOGGED, "debug": reasons.LOGGED, "profiler_steps": reasons.LOGGED,
    "include_tokens_per_second": reasons.LOGGED, "loss_watchdog_*": "a spike of the loss stops the run",
    "wandb_*": reasons.TRACKED, "mlflow_*": reasons.TRACKED, "comet_*": reasons.TRACKED,
    "use_wandb": reasons.TRACKED,
    "output_dir": reasons.STORED, "hub_*": reasons.STORED, "push_dataset_to_hub": reasons.STORED,
    "hf_use_auth_token": "tokens are read from the environment",
    "fsdp_*": reasons.ALONE, "ddp*": reasons.ALONE, "local_rank": reasons.ALONE,
    "sequence_parallel_degree": reasons.ALONE, "device*": reasons.ALONE,
    "dataset_prepared_path": reasons.PREPARED, "dataset_processes": reasons.PREPARED,
    "dataset_keep_in_memory": reasons.PREPARED, "dataloader_*": reasons.PREPARED,
    "skip_prepare_dataset": reasons.PREPARED, "remove_unused_columns": reasons.PREPARED,
    "shuffle_merged_datasets": "rows are taken in an order that follows from the seed",
    "special_tokens": reasons.TOKENS, "tokens": reasons.TOKENS, "added_tokens_overrides": reasons.TOKENS,
    "eot_tokens": reasons.TOKENS, "tokenizer_*": reasons.TOKENS, "resize_token_embeddings_to_32x": reasons.TOKENS,
    "lora_modules_to_save": "adapters hold what the technique moves; `layers` moves embeddings and head",
    "chat_template*": reasons.TEMPLATE, "model_type": "the architecture is read from the model's own files",
    "is_*_derived_model": "the architecture is read from the model's own files",
    "trust_remote_code": reasons.REMOTE, "strict": "unknown settings are always errors here",
    "bnb_config_kwargs": reasons.QUANTISED, "qlora_sharded_model_loading": reasons.QUANTISED,
    "fp16": "a model computes in bfloat16 or float32 here", "float16": "a model computes in bfloat16 or float32 here",
    "lora_fan_in_fan_out": "which way a layer's weights lie is seen from the layer",
    "lora_target_modules.*": "all linear layers, which are asked for too, hold these",
    "train_on_inputs": "prompts are never learnt",
    "lora_model_dir": "name the step that tuned it in `model`", "eval_*": reasons.EVALUATED,
    "evals_per_epoch": reasons.EVALUATED, "test_datasets": reasons.EVALUATED, "do_*_eval": reasons.EVALUATED,
    "metric_for_best_model": reasons.EVALUATED, "greater_is_better": reasons.EVALUATED,
    "neftune_noise_alpha": "noise on embeddings is not among the techniques",
    "rl_adapter_ref_model": reasons.REFERENCE, "precompute_ref_log_probs": reasons.REFERENCE,
    "dpo_use_weighting": "pairs count alike", "dpo_loss_weights": "the loss counts 1, and `rpo_alpha` beside it",
    "dpo_use_logits_to_keep": reasons.MEMORY, "dpo_padding_free": reasons.PACKED,
    "dpo_generate_during_eval": reasons.EVALUATED, "vllm": reasons.WRITER,
    "num_labels": "a reward model has one output",
    **{f"trl.{name}": why for name, why in trainers.LEFT.items()},
    "loss_type.*": "one loss is learnt, and `rpo_alpha` beside it", "trl.log_*": reasons.LOGGED,
    "use_*kernels": reasons.MEASURED, "*_kernel": reasons.MEASURED, "use_*moe": reasons.MEASURED,
    "experts_implementation": reasons.MEASURED, "*_attn_impl": reasons.MEASURED, "fp8*": reasons.ROUNDED,
    "activation_offloading": reasons.MEMORY, "tiled_mlp": reasons.MEMORY, "quantize_moe_experts": reasons.QUANTISED,
    "gptq*": reasons.QUANTISED, "model_quantization_config*": reasons.QUANTISED, "qat": reasons.ROUNDED,
    "dp_*": reasons.ALONE, "*_parallel_*": reasons.ALONE, "use_ray": reasons.ALONE, "ray_*": reasons.ALONE,
    "accelerator_config": reasons.ALONE, "use_swanlab": reasons.TRACKED, "swanlab_*": reasons.TRACKED,
    "use_otel_metrics": reasons.TRACKED, "otel_*": reasons.TRACKED, "streaming*": reasons.PREPARED,
    "processor_type": reasons.PROCESSOR, "image_resize_algorithm": reasons.PROCESSOR,
    "max_packed_sequence_len": reasons.PACKED, "pretrain_*": reasons.PACKED,
    "unfrozen_parameters": "all weights move under `full`; take the technique `layers`, with `names` and `last: 0`",
    "lora_target_parameters": "adapters stand beside layers", "peft_layers_to_transform": reasons.EVERYWHERE,
    "relora*": reasons.METHOD, "jagged_restart_*": reasons.METHOD, "lisa_*": reasons.METHOD, "peft": reasons.METHOD,
    "use_eaft": reasons.LOSS, "eaft_*": reasons.LOSS, "use_dynamic_finetuning": reasons.LOSS,
    "cosine_*": reasons.FALL, "eta_min": reasons.FALL, "lr_quadratic_warmup": reasons.FALL,
    "curriculum_sampling": "write what makes a row easy into `curriculum`", "full_finetune": "no `adapter` says so",
    "experimental_skip_move_to_device": reasons.MEMORY, "llama4_linearized_experts": reasons.MEASURED,
    "model_config": "a model's own configuration is used as it is", "min_sample_len": (
        "add `length` with `min` to `ops` of the step `data`"
    ), "reinit_weights": "a model begins with the weights that it has",
    "diffusion": reasons.LOSS, "use_onebitllms": reasons.METHOD, "nvfp4_*": reasons.ROUNDED,
    "base_model_ignore_patterns": "a model's own files are read, its safetensors for weights",
    "llmcompressor": reasons.ROUNDED, "hatchery": reasons.ALONE, "context_parallel*": reasons.ALONE,
    "dataset_exact_deduplication": "add `exact_dedup` to `ops` of the step `data`",
}  # fmt: skip
OF_DATA = {
    "type": "the layout is recognised from the columns", "ds_type": "the kind of the file is in `source.kind`",
    "message_field_role": "role and content are recognised under their usual names",
    "message_field_content": "role and content are recognised under their usual names",
    "message_property_mappings": "role and content are recognised under their usual names",
    "roles": "roles are recognised under their usual names", "conversation": reasons.TEMPLATE,
    "chat_template": reasons.TEMPLATE, "chat_template_jinja": reasons.TEMPLATE, "train_on_eos": "each learnt turn ends",
    "split": "a file is read whole", "name": "a file is read whole", "trust_remote_code": reasons.REMOTE,
    "roles_to_train": "what the assistant says is learnt, and nothing else",
    "message_field_training": "turns marked `train: false` or `weight: 0` are never learnt",
    "revision": "write the file's own digest into your notes", "shards": "write `source.limit`",
    "format": "write a template into `source.prompt`", "no_input_format": "write a template into `source.prompt`",
    "system_format": reasons.TEMPLATE, "field_rejected": reasons.REJECTED, "prompt_format": reasons.TEMPLATE,
    "chosen_format": reasons.TEMPLATE, "rejected_format": reasons.TEMPLATE, "completion_format": reasons.TEMPLATE,
    "field_label": "name the column in the objective's `label`", "preprocess_shards": reasons.PREPARED,
    "field_thinking": reasons.THOUGHT, "template_thinking_key": reasons.THOUGHT, "split_thinking": reasons.THOUGHT,
    "drop_system_message": "system prompts are read as they stand",
}  # fmt: skip
"""Options of a data set without counterpart."""
LOADERS = frozenset({"json", "csv", "parquet", "text"})
"""`datasets` loaders of local files in `data_files`."""


def _prepared(options: dict[str, Any], name: str) -> None:
    options |= {f"trl.{option}": value for option, value in (options.pop("trl", None) or {}).items()}
    for option, method in (("reward_model", "reward"), ("process_reward_model", "process_reward_model")):
        if option in options:
            options[option] = method if options[option] else None
    if options.get("rl") == "gdpo":
        options |= {"rl": "grpo", "trl.multi_objective_aggregation": "normalize_then_sum"}
    if options.get("rl") == "ipo":
        options |= {"rl": "dpo", "dpo_loss_type": "ipo"}
    if options.get("dpo_norm_loss") is not None:
        options["dpo_norm_loss"] = "mean" if options["dpo_norm_loss"] else "sum"
    trainers.merge_loss_list(options, "dpo_loss_type", "dpo_loss_weights")
    if options.get("freeze_mm_modules"):  # all but the decoder, the projector among it
        options["freeze_mm_modules.projector"] = True
    if (size := options.get("image_size")) is not None and size not in EMPTY:
        sides = [size, size] if isinstance(size, int) else list(size)
        options["image_size"] = int(sides[0]) * int(sides[-1])
    if options.pop("lora_target_linear", None):
        options["lora_target_modules.named"] = options.pop("lora_target_modules", None)
        options["lora_target_modules"] = "all-linear"
    if options.get("excess_length_strategy") in ("truncate", "drop"):
        options["excess_length_strategy"] = {"truncate": "right", "drop": "drop"}[options["excess_length_strategy"]]


def _dataset(options: dict[str, Any], account: ImportReport, folder: Path) -> ImportedDataset | None:
    """Return the first data set, or texts for continued pre-training (`pretraining_dataset`); further ones
    are listed.
    """
    option = "datasets" if options.get("datasets") else "pretraining_dataset"
    given = options.pop(option, None) or []
    found = None
    for at, entry in enumerate([{"path": given}] if isinstance(given, str) else given):
        name = f"{option}.{at}"
        if at:
            account.left[f"{name}: {entry}"] = "a data set has one source; put the files into one folder"
        else:
            found = _first(dict(entry) if option == "datasets" else _texts(dict(entry)), name, account)
    return found


def _texts(entry: dict[str, Any]) -> dict[str, Any]:
    """Return texts for continued pre-training, in the layout of that name in `datasets`."""
    return {"field": entry.pop("text_column", None), **entry, "type": "completion"}


def _first(entry: dict[str, Any], name: str, account: ImportReport) -> ImportedDataset:
    path, files = str(entry.pop("path", "")), entry.pop("data_files", None)
    if files and path in LOADERS:
        entry.setdefault("ds_type", path)
    where = (files[0] if isinstance(files, list) else files) if files else path
    account.taken[f"{name}.{'data_files' if files else 'path'}: {where}"] = "steps.data.source.path"
    settings = _columns(entry, name, account)
    format = entry.get("ds_type") or (path if path in LOADERS else None)
    if isinstance(files, list) and len(files) > 1:
        account.left[f"{name}.data_files: {files[1:]}"] = "a data set has one source; put the files into one folder"
    for option, value in entry.items():
        _note(f"{name}.{option}", option, value, account)
    return ImportedDataset(str(where), settings, format)


def _columns(entry: dict[str, Any], name: str, account: ImportReport) -> dict[str, Any]:
    """Return the roles of the columns, as far as the file gives them."""
    found: dict[str, Any] = {}
    kind = entry.get("type")
    if isinstance(kind, dict):
        del entry["type"]
        found = _custom(dict(kind), f"{name}.type", account)
    elif kind == "completion":
        found = {"answer": entry.pop("field", None) or "text"}
        account.taken[f"{name}.type: {entry.pop('type')}"] = "steps.data.source.answer"
    for option, setting in (
        ("field_messages", "messages"),
        ("field_tools", "tools"),
        ("field_system", "system_column"),
        ("field_chosen", "answer"),
    ):
        if entry.get(option) not in EMPTY:
            account.taken[f"{name}.{option}: {entry[option]}"] = f"steps.data.source.{setting}"
            found[setting] = entry.pop(option)
    if "answer" in found and "messages" in found:  # the turns that two answers follow
        found["prompt"] = found.pop("messages")
    return found


def _custom(kind: dict[str, Any], name: str, account: ImportReport) -> dict[str, Any]:
    """A layout of the user's own: instruction, input and output by their columns, or prompt and preferred answer."""
    found: dict[str, Any] = {}
    if "field_chosen" in kind or "field_completion" in kind:
        kind |= {"field_instruction": kind.pop("field_prompt", None) or "prompt"}
        kind |= {"field_output": kind.pop("field_chosen", None) or kind.pop("field_completion")}
    ask, more, say = (kind.pop(f"field_{part}", None) for part in ("instruction", "input", "output"))
    ask, say = ask or "instruction", say or "output"
    found = {"prompt": f"{{{ask}}}\n\n{{{more}}}" if more else ask, "answer": say}
    account.taken[f"{name}: instruction {ask}, input {more}, output {say}"] = "steps.data.source.prompt and answer"
    for option, setting in (("system_prompt", "system"), ("field_system", "system_column")):
        if kind.get(option) not in EMPTY:
            account.taken[f"{name}.{option}: {kind[option]}"] = f"steps.data.source.{setting}"
            found[setting] = kind.pop(option)
    for option, value in kind.items():
        _note(f"{name}.{option}", option, value, account)
    return found


def _note(shown: str, option: str, value: Any, account: ImportReport) -> None:
    if value in EMPTY:
        account.empty.append(shown)
    elif (option, value) in (("field_rejected", "rejected"), ("field_label", "label")):
        account.taken[f"{shown}: {value}"] = f"the column `{value}`"
    elif option in OF_DATA:
        account.left[f"{shown}: {value}"] = OF_DATA[option]
    else:
        account.unknown.append(f"{shown}: {value}")


AXOLOTL = TrainingTool(
    name="axolotl",
    own=frozenset({"base_model", "micro_batch_size", "num_epochs", "sequence_len", "adapter", "sample_packing"}),
    names=NAMES,
    defaults=DEFAULTS,
    usual=trainers.USUAL,
    left=LEFT,
    dataset=_dataset,
    prepared=_prepared,
    folded={"lora_target_linear": "lora_target_modules"},
)
