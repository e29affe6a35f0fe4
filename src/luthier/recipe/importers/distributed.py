"""Import settings of distributed training (DeepSpeed ZeRO, FSDP): what is kept here, and what is not."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from luthier.recipe.importers.import_report import ImportOptionReader

TUNE = "steps.tune"
OPTIONS = ("deepspeed", "fsdp", "fsdp_config", "dist_config")
"""Common names of options that lay a training over processes."""
PARTS = "`parts: auto`: rows of each step are shared out over processes, and the bytes do not depend on their number"
WHOLE = "each process holds all weights that it computes with: a model must fit into the memory of one device"
MOMENTS = (
    "each fp32 master with its moments belongs to one process (ZeRO stage 1), and the next one keeps a copy, so that a "
    "lost process costs no checkpoint"
)
OFFLOAD = "nothing is moved to the processor's memory or the disk: what does not fit is found out before the first step"
ONE = "one process trains here: rows of a step are not shared out, and it reads them in microbatches"
_OF_TRAINER = "the trainer's own options say it"
_OTHER_KEYS: Mapping[str, str] = {
    "train_batch_size": _OF_TRAINER, "train_micro_batch_size_per_gpu": _OF_TRAINER,
    "gradient_accumulation_steps": _OF_TRAINER, "gradient_clipping": _OF_TRAINER, "optimizer": _OF_TRAINER,
    "scheduler": _OF_TRAINER, "bf16": _OF_TRAINER, "fp16": "a model computes in bfloat16 or float32 here",
    "zero_allow_untrained_gradients": "what does not learn has no gradient here",
    "zero_allow_untested_optimizer": "every optimizer here is tested", "steps_per_print": "every step is logged",
    "wall_clock_breakdown": "every step is logged", "amp": "a model computes in bfloat16 or float32 here",
}  # fmt: skip
_STAGE_OF_NAME = re.compile(r"(?:zero|stage|z|ds)_?-?(?P<stage>[0-3])(?!\d)", re.IGNORECASE)
_PARAMETERS_OFFLOADED = ("offload_param", "offload_params", "fsdp_offload_params", "cpu_offload")


class ProcessLayout(NamedTuple):
    """How another tool's file distributes a training over processes."""

    shares_moments: bool
    """ZeRO stage 1 and above, and FSDP: each process holds a part of the optimizer's state."""
    shares_weights: bool
    """ZeRO stage 3 and fully sharded FSDP: each process holds a part of the weights."""
    offloads: bool
    """Whether anything is offloaded to processor memory or disk."""


def build_process_settings(options: ImportOptionReader, folder: Path, fields: Collection[str]) -> dict[str, Any]:
    """The settings of `tune` for what a file says of many processes, with each option accounted for; `fields` are those
    that `tune` has, and a DeepSpeed file is looked for in `folder`."""
    given = {name: options.get(name) for name in OPTIONS if options.get(name) is not None}
    processes, sizes = options.get("processes"), [options.get(name) for name in ("shard_size", "replicate_size")]
    if processes is None and any(sizes):
        processes = int(sizes[0] or 1) * int(sizes[1] or 1)
    can_share = "parts" in fields
    for name, value in given.items():
        layout = _read_layout(name, value, folder, options)
        options.leave(name, "; ".join(_say(layout, can_share=can_share)))
    found: dict[str, Any] = {"parts": "auto"} if can_share and (given or processes) else {}
    if processes is not None and int(processes) > 1 and "processes" in fields:
        found["processes"] = int(processes)
        for name in ("processes", "shard_size", "replicate_size"):
            options.take(name, f"{TUNE}.processes")
    for name in ("processes", "shard_size", "replicate_size"):
        options.leave(name, ONE)
    return found


def _say(layout: ProcessLayout | None, *, can_share: bool) -> Iterator[str]:
    """Describe which parts of a layout are kept."""
    if layout is None:
        yield "its file is not beside this one, so what it says is not known"
    yield f"kept as {PARTS}" if can_share else f"not kept: {ONE}"
    if layout is not None and layout.shares_moments and can_share:
        yield f"kept: {MOMENTS}"
    if layout is None or layout.shares_weights:
        yield f"not kept: {WHOLE}"
    if layout is None or layout.offloads:
        yield f"not kept: {OFFLOAD}"


def _read_layout(name: str, value: Any, folder: Path, options: ImportOptionReader) -> ProcessLayout | None:
    """The layout that an option names; None where it names a file that is not here and says nothing by its name."""
    if name == "deepspeed":
        return _read_deepspeed(value, folder, options)
    settings = value if isinstance(value, Mapping) else {}
    words = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    strategy = str(settings.get("sharding_strategy") or settings.get("fsdp_sharding_strategy") or words).lower()
    offloads = ("offload" in words and not settings) or any(
        _is_on(settings.get(entry)) for entry in _PARAMETERS_OFFLOADED
    )
    reshard = settings.get("reshard_after_forward", settings.get("fsdp_reshard_after_forward", True))
    gradients_alone = "shard_grad_op" in strategy or str(reshard).lower() in ("false", "shard_grad_op")
    unsharded = "no_shard" in strategy or "ddp" in strategy
    return ProcessLayout(not unsharded, not unsharded and not gradients_alone, offloads)


def _read_deepspeed(value: Any, folder: Path, options: ImportOptionReader) -> ProcessLayout | None:
    """The layout of a DeepSpeed configuration: a mapping, or the file that holds one; each of its keys is accounted
    for."""
    shown = "deepspeed"
    if not isinstance(value, Mapping):
        path = folder / str(value)
        shown = f"deepspeed ({path.name})"
        if not path.is_file():
            named = _STAGE_OF_NAME.search(path.stem)
            if named is None:
                return None
            offloads = "offload" in path.stem.lower()
            options.account.left[f"{shown}: stage {named['stage']}, by its name"] = "the file itself is not beside this"
            return ProcessLayout(named["stage"] != "0", named["stage"] == "3", offloads)
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, Mapping):
            raise ValueError(f"{path.name} is no DeepSpeed configuration")
    zero = value.get("zero_optimization") or {}
    stage, offloads = int(zero.get("stage", 0)), False
    for key, setting in zero.items():
        if key == "stage":
            options.account.left[f"{shown}.zero_optimization.stage: {setting}"] = "told at `deepspeed`"
        elif key in ("offload_optimizer", "offload_param"):
            offloads = offloads or _is_on(setting)
            options.account.left[f"{shown}.zero_optimization.{key}: {setting}"] = OFFLOAD
        else:
            why = "how large pieces are exchanged is chosen here by their owners"
            options.account.left[f"{shown}.zero_optimization.{key}: {setting}"] = why
    for key, setting in value.items():
        if key in _OTHER_KEYS:
            options.account.left[f"{shown}.{key}: {setting}"] = _OTHER_KEYS[key]
        elif key != "zero_optimization":
            options.account.unknown.append(f"{shown}.{key}: {setting}")
    return ProcessLayout(stage >= 1, stage == 3, offloads)


def _is_on(setting: Any) -> bool:
    """Return whether something is offloaded: a device that is not `none`, or true."""
    if isinstance(setting, Mapping):
        return str(setting.get("device", "cpu")).lower() != "none"
    return str(setting).lower() in ("true", "cpu", "nvme")
