"""LLaMA-Factory's options (of its first generation), and their counterparts; the rest are transformers' arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.core.errors import InputError, SourceLocation
from luthier.recipe.importers import import_report as reasons
from luthier.recipe.importers.import_report import EMPTY, ImportReport, map_same_names
from luthier.recipe.importers.tool import ImportedDataset, TrainingTool
from luthier.recipe.importers.trl import ARGUMENTS, ARGUMENTS_LEFT, convert_null_limits

NAMES = ARGUMENTS | map_same_names(
    "blocks", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "loraplus_lr_ratio", "reward_model",
) | {
    "model_name_or_path": "model", "model_revision": "revision", "finetuning_type": "technique",
    "freeze_trainable_layers": "last_layers", "quantization_bit": "bits", "lora_rank": "r",
    "lora_target": "target_modules", "pissa_init": "init_lora_weights", "cutoff_len": "max_length",
    "val_size": "held", "stage": "method", "pref_beta": "beta", "pref_loss": "loss_type", "pref_ftx": "sft",
    "dpo_label_smoothing": "label_smoothing", "simpo_gamma": "gamma", "kto_chosen_weight": "desirable_weight",
    "kto_rejected_weight": "undesirable_weight", "kto_tag": "label", "max_new_tokens": "max_completion_length",
    "max_samples": "limit", "mask_history": "train_on", "default_system": "system",
    "early_stopping_steps": "patience", "freeze_vision_tower": "freeze_vision",
    "freeze_multi_modal_projector": "freeze_projector", "freeze_language_model": "freeze_language",
    "image_max_pixels": "max_pixels", "video_fps": "video_fps", "video_maxlen": "video_frames",
}  # fmt: skip
RANK = 8
_PREFERRED = {"beta": 0.1}
USUAL = {
    "dpo": _PREFERRED, "orpo": _PREFERRED, "simpo": _PREFERRED | {"gamma": 0.5}, "kto": _PREFERRED,
    "ppo": {"beta": 0.2, "num_generations": 1, "max_completion_length": 1024},
}  # fmt: skip
"""What it does by objective; `ppo` holds a model near to where it began as TRL did."""
STAGES = {"sft": "sft", "pt": "sft", "rm": "reward", "dpo": "dpo", "kto": "kto", "ppo": "ppo"}
DEFAULTS = {
    "technique": "lora", "learning_rate": 5e-5, "epochs": 3.0, "micro_batch": 8, "accumulation": 1,
    "lr_scheduler": "linear", "warmup_ratio": 0.0, "weight_decay": 0.0, "max_grad_norm": 1.0, "seed": 42,
    "max_length": 2048,
    "truncation": "right", "r": RANK, "lora_dropout": 0.0, "target_modules": "all", "train_on": "all",
    "last_layers": 2, "freeze_vision": True, "freeze_projector": True, "freeze_language": False,
    "max_pixels": 768 * 768, "video_fps": 2.0, "video_frames": 128,
}  # fmt: skip
LEFT = ARGUMENTS_LEFT | {
    "template": reasons.TEMPLATE,
    "packing": reasons.PACKED, "neat_packing": reasons.PACKED, "disable_shuffling": reasons.PACKED,
    "flash_attn": reasons.MEASURED, "use_unsloth*": reasons.MEASURED, "enable_liger_kernel": reasons.MEASURED,
    "use_kv_cache": reasons.MEASURED, "shift_attn": reasons.MEASURED, "disable_gradient_checkpointing": reasons.MEMORY,
    "use_reentrant_gc": reasons.MEMORY, "low_cpu_mem_usage": reasons.MEMORY, "overwrite_cache": reasons.PREPARED,
    "preprocessing_*": reasons.PREPARED, "tokenized_path": reasons.PREPARED, "streaming": reasons.PREPARED,
    "buffer_size": reasons.PREPARED, "plot_loss": reasons.LOGGED,
    "train_on_prompt": "prompts are never learnt", "ignore_pad_token_for_loss": "padding is never learnt",
    "mix_strategy": "a data set has one source", "interleave_probs": "a data set has one source",
    "tool_format": reasons.TEMPLATE, "eval_dataset": reasons.EVALUATED, "additional_target": (
        "adapters hold what the technique moves; `layers` moves embeddings and head"
    ), "pissa_iter": "the singular directions are computed exactly",
    "pissa_convert": "the adapter is always saved over the untouched base",
    "create_new_adapter": "name the step that tuned the model before in `model`",
    "adapter_name_or_path": "name the step that tuned the model before in `model`",
    "quantization_*": reasons.QUANTISED, "double_quantization": reasons.QUANTISED, "pure_bf16": (
        "what moves is always kept in float32"
    ), "upcast_layernorm": "what moves is always kept in float32", "resize_vocab": reasons.TOKENS,
    "ref_model*": reasons.REFERENCE, "pref_bco_weight": "there is no such loss here", "ld_alpha": (
        "tokens of an answer count alike"
    ), "reward_model_*": reasons.JUDGE, "ppo_*": "the objective `ppo` has settings of its own, as its paper names them",
    "temperature": reasons.DRAWN, "top_p": reasons.DRAWN, "top_k": reasons.DRAWN, "do_sample": reasons.DRAWN,
    "repetition_penalty": reasons.DRAWN,
    "new_special_tokens": reasons.TOKENS, "split_special_tokens": reasons.TOKENS, "add_tokens": reasons.TOKENS,
    "rope_scaling": "positions are the model's own", "cache_dir": "the store and the hub's own cache are used",
    "use_swanlab": reasons.TRACKED, "swanlab_*": reasons.TRACKED, "ray_*": reasons.ALONE,
    "include_num_input_tokens_seen": reasons.LOGGED, "predict_with_generate": reasons.EVALUATED,
    "compute_accuracy": reasons.EVALUATED, "use_fast_tokenizer": reasons.TOKENS, "hf_hub_token": (
        "tokens are read from the environment"
    ), "export_*": reasons.STORED, "use_galore": "there is no such optimizer here",
    "use_badam": "there is no such optimizer here", "use_apollo": "there is no such optimizer here",
    "use_adam_mini": "there is no such optimizer here",
    "galore_*": "there is no such optimizer here", "badam_*": "there is no such optimizer here",
    "apollo_*": "there is no such optimizer here", "use_dft_loss": reasons.LOSS, "use_eaft_loss": reasons.LOSS,
    "use_asft_loss": reasons.LOSS, "asft_*": reasons.LOSS, "eaft_*": reasons.LOSS, "fp8*": reasons.ROUNDED,
    "mixture_of_depths": reasons.METHOD, "use_v1_kernels": reasons.MEASURED, "use_kt": reasons.MEASURED,
    "kt_*": reasons.MEASURED, "*_parallel_size": reasons.ALONE, "image_min_pixels": reasons.SMALL,
    "image_*": reasons.PROCESSOR, "video_*": reasons.FRAMES, "audio_*": reasons.SOUNDS,
    "use_audio_in_video": "the sound of a film is not read: give it in the column `audios`",
    "crop_to_patches": reasons.PROCESSOR,
    "sequence_parallel": reasons.ALONE, "use_distributed_optimizer": reasons.ALONE, "overlap_*": reasons.ALONE,
    "bias_activation_fusion": reasons.MEASURED, "apply_rope_fusion": reasons.MEASURED, "moe_*": reasons.MEASURED,
    "recompute_*": reasons.MEMORY, "use_packed_sequences": reasons.PACKED, "mixed_precision": reasons.ROUNDED,
    "use_llama_pro": "blocks are not added to a model", "freeze_trainable_modules": "`layers` has `names`",
    "freeze_extra_modules": "`layers` has `norms`, `head` and `embeddings`", "enable_thinking": reasons.TEMPLATE,
}  # fmt: skip
KINDS = {"lora": "lora", "full": "full", "freeze": "layers"}
COLUMNS = {
    "prompt": "prompt",
    "response": "answer",
    "messages": "messages",
    "system": "system_column",
    "tools": "tools",
}
"""Columns of dataset_info.json, and settings of a source."""


def _prepared(options: dict[str, Any], name: str) -> None:
    stage = str(options.get("stage") or "sft")
    options["stage"] = STAGES.get(stage, stage)
    if stage == "dpo" and options.get("pref_loss") in ("orpo", "simpo"):
        options["stage"] = options.pop("pref_loss")
    kind = options.get("finetuning_type")
    options["finetuning_type"] = KINDS.get(kind, kind) if kind else "lora"
    if options["finetuning_type"] == "lora" and "lora_alpha" not in options:
        options["lora_alpha"] = 2 * int(options.get("lora_rank") or RANK)
    if options.pop("use_muon", None):
        options["optim"] = "muon"
    convert_negative_layer_count(options)
    convert_null_limits(options)
    if "mask_history" in options:
        options["mask_history"] = "last" if options["mask_history"] else "all"
    if "pissa_init" in options:
        options["pissa_init"] = "pissa" if options["pissa_init"] else None


def convert_negative_layer_count(options: dict[str, Any], option: str = "freeze_trainable_layers") -> None:
    """Convert a negative layer count, which means the first layers, to a list of layers."""
    if (number := int(options.get(option) or 0)) < 0:
        options |= {option: 0, "blocks": list(range(-number))}


def _dataset(options: dict[str, Any], account: ImportReport, recipe_dir: Path) -> ImportedDataset | None:
    """The first of `dataset`, as dataset_info.json describes it."""
    named = options.pop("dataset", None)
    folder = str(options.pop("dataset_dir", None) or "data")
    media = options.pop("media_dir", None)
    if media is not None:
        account.taken[f"media_dir: {media}"] = "steps.data.source.media_folder"
    if named in EMPTY:
        return None
    names = [item.strip() for item in named.split(",")] if isinstance(named, str) else list(named)
    for other in names[1:]:
        account.left[f"dataset: {other}"] = "a data set has one source; put the files into one folder"
    account.taken[f"dataset: {names[0]}, dataset_dir: {folder}"] = "steps.data.source"
    entry = _read_dataset_info(recipe_dir / folder / "dataset_info.json", names[0])
    if entry is None:
        return ImportedDataset(f"{folder}/{names[0]}.jsonl", {})
    _judged(entry, options, account)
    if not entry.get("file_name"):
        name = str(entry.get("hf_hub_url") or entry.get("ms_hub_url") or names[0])
        return ImportedDataset(name, _columns(entry), shows=_media_of(entry))
    settings, shows = _columns(entry), _media_of(entry)
    if shows:
        settings["media_folder"] = str(media or folder)
    if other := {column: kind for column, kind in shows.items() if column not in (kind, f"{kind}s")}:
        settings["media_columns"] = other
    return ImportedDataset(f"{folder}/{entry['file_name']}", settings, shows=shows)


def _media_of(entry: dict[str, Any]) -> dict[str, str]:
    """The columns that hold pictures, sounds and films, and which."""
    columns = entry.get("columns") or {}
    return {str(columns[f"{kind}s"]): kind for kind in ("image", "audio", "video") if columns.get(f"{kind}s")}


def _read_dataset_info(path: Path, name: str) -> dict[str, Any] | None:
    """What dataset_info.json says of a data set; None when it is not there."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))[name]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"does not describe the data set {name!r}", where=SourceLocation(file=str(path))) from error
    return dict(found)


def _judged(entry: dict[str, Any], options: dict[str, Any], account: ImportReport) -> None:
    """Columns of preferences: the worse answer has one name here, and a yes or no is the objective's business."""
    columns = entry.get("columns") or {}
    if columns.get("rejected", "rejected") != "rejected":
        account.left[f"columns.rejected: {columns['rejected']}"] = reasons.REJECTED
    if columns.get("kto_tag"):
        options["kto_tag"] = columns["kto_tag"]


def _columns(entry: dict[str, Any]) -> dict[str, Any]:
    columns = entry.get("columns") or {}
    found = {setting: columns[name] for name, setting in COLUMNS.items() if columns.get(name)}
    if columns.get("chosen"):
        if "messages" in found:
            return {}  # turns that end with a question, and two answers beside them, are recognised
        found["answer"] = columns["chosen"]
    if "messages" in found:
        return {name: value for name, value in found.items() if name not in ("prompt", "answer")}
    if "prompt" in found and columns.get("query"):
        found["prompt"] = f"{{{found['prompt']}}}\n\n{{{columns['query']}}}"
    return found


LLAMAFACTORY = TrainingTool(
    name="LLaMA-Factory",
    own=frozenset({"model_name_or_path", "finetuning_type", "stage", "cutoff_len", "template", "lora_rank", "dataset"}),
    names=NAMES,
    defaults=DEFAULTS,
    usual=USUAL,
    left=LEFT,
    dataset=_dataset,
    prepared=_prepared,
    folded={"use_muon": "optim", "pref_loss": "stage"},
)
