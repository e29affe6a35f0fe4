"""A recipe from wishes under common names: the counterpart of each option that has one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from luthier.core.component import components_by_kind
from luthier.core.errors import InputError, did_you_mean
from luthier.recipe.importers.import_report import ImportOptionReader
from luthier.recipe.importers.objective import PREFER, REINFORCE, build_objective_settings
from luthier.recipe.importers.vision import build_vision_settings, expand_module_pattern
from luthier.tune.technique import Technique
from luthier.tune.tracker import Tracker

TUNE = "steps.tune"
SCHEDULES = {
    "linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant",
    "warmup_stable_decay": "wsd",
}  # fmt: skip
"""transformers' names for the shapes that there are here."""
OPTIMIZERS = {
    "adamw_torch": "adamw", "adamw_torch_fused": "adamw", "adamw_hf": "adamw", "adamw": "adamw",
    "adamw_apex_fused": "adamw", "paged_adamw_32bit": "adamw", "paged_adamw": "adamw",
    "adamw_bnb_8bit": "adamw8bit", "adamw_8bit": "adamw8bit", "paged_adamw_8bit": "adamw8bit",
    "adamw_torch_8bit": "adamw8bit", "ao_adamw_8bit": "adamw8bit", "adafactor": "adafactor", "muon": "muon",
    "schedule_free_adamw": "schedule_free",
}  # fmt: skip
"""transformers' and axolotl's names for the optimizers that there are here."""
LORA = {
    "r": int, "lora_alpha": float, "lora_dropout": float, "use_rslora": bool, "use_dora": bool,
    "loraplus_lr_ratio": float, "init_lora_weights": str,
}  # fmt: skip
MOST_EPOCHS = 1000
"""The most that `tune` takes."""
STARTS = ("gaussian", "pissa", "olora", "eva")


def build_tune_step(options: ImportOptionReader, rows: int | None, *, shows: bool = False) -> dict[str, Any]:
    """The settings of the step `tune`; `rows` is how many it will learn from, when that is known, and `shows` whether
    they hold pictures or sounds."""
    if options.get("method") in REINFORCE:
        options.leave("lora_dropout", "what a model writes is learnt without dropout")
    if options.get("method") in PREFER:
        options.leave(
            "lora_dropout", "TRL's trainers learn preferences without any dropout, unless `disable_dropout` is false"
        )
    step: dict[str, Any] = {
        "kind": "tune",
        "data": "data",
        "technique": build_vision_settings(options, _technique(options), shows=shows),
    }
    step["objective"] = build_objective_settings(options)
    step |= _pace(options, step["objective"].get("rollout"))
    _length(options, step, rows)
    step["optimizer"] = _optimizer(options)
    _rate(options, step)
    _rest(options, step)
    return step


def _technique(options: ImportOptionReader) -> dict[str, Any]:
    path = f"{TUNE}.technique"
    kind = options.take("technique", f"{path}.kind") or "full"
    bits = next((number for number in (4, 8) if options.get(f"{number}bit")), None) or options.get("bits")
    if kind == "lora" and bits:
        kind = "qlora"
    if kind not in components_by_kind(Technique):
        hint = f"write the nearest there is into it (lora, mostly), and all the rest is imported; {_known(kind)}"
        raise InputError(f"the file asks for the technique {kind!r}, which there is not here", hint=hint)
    found: dict[str, Any] = {"kind": kind}
    if kind == "qlora":
        for name in ("4bit", "8bit", "bits"):
            options.take(name, f"{path}.bits")
        found["bits"] = int(bits or 4)
    if kind == "layers":
        settings = (
            ("last", options.take("last_layers", f"{path}.last")),
            ("blocks", options.take("blocks", f"{path}.blocks")),
        )
        found |= {setting: value for setting, value in settings if value is not None}
    if options.get("init_lora_weights") is not None and options.get("init_lora_weights") not in STARTS:
        options.leave("init_lora_weights", f"an adapter begins here in one of these ways: default, {', '.join(STARTS)}")
    for name, number in LORA.items():
        if name in components_by_kind(Technique)[kind].model_fields and options.get(name) is not None:
            found[name] = number(options.take(name, f"{path}.{name}"))
        else:
            options.leave(name, f"the technique {kind} has none")
    if "target_modules" not in components_by_kind(Technique)[kind].model_fields:
        options.leave("target_modules", f"the technique {kind} has none")
    elif (targets := options.take("target_modules", f"{path}.target_modules")) is not None:
        found["target_modules"] = _targets(targets)
    elif kind in ("lora", "qlora"):
        options.account.left["lora_target_modules: (PEFT's default)"] = _ALL_LINEAR
    return found


def _known(kind: str) -> str:
    return did_you_mean(kind, components_by_kind(Technique))


_ALL_LINEAR = (
    "PEFT's usual choice, often two layers of attention; all linear layers here: name `target_modules` otherwise"
)


def _targets(value: Any) -> str | list[str]:
    """Names as a list; what means all linear layers under its name here."""
    if isinstance(value, str) and (meant := expand_module_pattern(value)) is not None:
        return sorted(set(meant))
    names = [entry.strip() for entry in value.split(",")] if isinstance(value, str) else list(value)
    return "all-linear" if names in (["all"], ["all-linear"], ["all_linear"]) else sorted(set(names))


def _pace(options: ImportOptionReader, rollout: dict[str, Any] | None) -> dict[str, Any]:
    """Epochs and rows of a step; other tools count the answers of a step where a model writes them, and prompts count
    here."""
    found: dict[str, Any] = {}
    if (epochs := options.take("epochs", f"{TUNE}.epochs")) is not None:
        found["epochs"] = float(epochs)
    path = f"{TUNE}.batch_size"
    whole, micro, times = (options.take(name, path) for name in ("batch", "micro_batch", "accumulation"))
    rows = int(whole or int(micro or 1) * int(times or 1))
    answers = int(rollout.get("num_generations", 1)) if rollout is not None else 1
    found["batch_size"] = max(1, rows // max(1, answers))
    return found


def _length(options: ImportOptionReader, step: dict[str, Any], rows: int | None) -> None:
    """A number of steps, which goes before epochs there, and as many epochs as hold it; where rows cannot be counted
    yet, as many as may be."""
    steps = int(options.get("max_steps") or 0)
    if steps <= 0:
        options.leave("max_steps", "it bounds nothing there, either")
        return
    options.take("max_steps", f"{TUNE}.max_steps (it goes before epochs, which are as many as hold it)")
    epochs = MOST_EPOCHS if rows is None else min(MOST_EPOCHS, math.ceil(steps * step["batch_size"] / rows))
    step |= {"max_steps": steps, "epochs": float(epochs)}


def _optimizer(options: ImportOptionReader) -> dict[str, Any]:
    path = f"{TUNE}.optimizer"
    name = str(options.get("optimizer") or "adamw")
    found: dict[str, Any] = {"kind": OPTIMIZERS.get(name, "adamw")}
    if name in OPTIMIZERS:
        options.take("optimizer", f"{path}.kind")
    else:
        options.leave("optimizer", "there is no such optimizer here; AdamW stands in its place")
    if (decay := options.take("weight_decay", f"{path}.weight_decay")) is not None:
        found["weight_decay"] = float(decay)
    if found["kind"] == "adafactor":
        for name in ("beta1", "beta2", "eps"):
            options.leave(name, "Adafactor has none")
        return found
    if options.get("beta1") is not None or options.get("beta2") is not None:
        betas = options.take("beta1", f"{path}.betas"), options.take("beta2", f"{path}.betas")
        found["betas"] = [float(beta or usual) for beta, usual in zip(betas, (0.9, 0.999), strict=True)]
    if (eps := options.take("eps", f"{path}.eps")) is not None:
        found["eps"] = float(eps)
    for name in ("momentum", "nesterov", "iterations") if found["kind"] == "muon" else ():
        if (value := options.take(name, f"{path}.{name}")) is not None:
            found[name] = value
    return found


def _rate(options: ImportOptionReader, step: dict[str, Any]) -> None:
    """Height, shape and rise of the learning rate."""
    if (rate := options.take("learning_rate", f"{TUNE}.learning_rate")) is not None:
        step["learning_rate"] = float(rate)
    shape = str(options.get("lr_scheduler") or "")
    averages = step["optimizer"]["kind"] == "schedule_free"
    if averages:
        options.leave("lr_scheduler", "a schedule-free optimizer wants a constant rate")
    elif shape in SCHEDULES:
        options.take("lr_scheduler", f"{TUNE}.lr_scheduler")
        step["lr_scheduler"] = SCHEDULES[shape]
    else:
        options.leave("lr_scheduler", "there is no such schedule here; the usual one stands in its place")
    _warmup(options, step)


def _warmup(options: ImportOptionReader, step: dict[str, Any]) -> None:
    """Return the warm-up: a number of steps, or a share of them."""
    path = f"{TUNE}.warmup_ratio"
    number = float(options.get("warmup_steps") or 0)
    if number < 1:
        step["warmup_ratio"] = float(options.take("warmup_steps", path) or options.take("warmup_ratio", path) or 0)
        return
    options.leave("warmup_ratio", "the number of steps goes before it")
    options.take("warmup_steps", f"{TUNE}.warmup_steps")
    step["warmup_steps"] = round(number)


def _rest(options: ImportOptionReader, step: dict[str, Any]) -> None:
    """Convert clipping, precision and early stopping; and account for all remaining options."""
    if (clip := options.take("max_grad_norm", f"{TUNE}.max_grad_norm")) is not None:
        step["max_grad_norm"] = float(clip) or None
    for name in ("bf16", "dtype"):
        if (value := options.get(name)) is not None and str(value) in _PRECISIONS:
            step.setdefault("dtype", _PRECISIONS[str(value)])
            options.take(name, f"{TUNE}.dtype")
        options.leave(name, "a model computes in bfloat16 or float32 here")
    if (patience := options.take("patience", f"{TUNE}.validation.patience")) is not None:
        step["validation"] = {"patience": int(patience)}
    if trackers := list(_trackers(options)):
        step["report_to"] = trackers
    for name in options.rest():
        options.leave(name, "nothing here corresponds to it")


def _trackers(options: ImportOptionReader) -> Iterator[Any]:
    """Return the requested trackers, by name or by a project."""
    path, names = f"{TUNE}.report_to", options.get("report_to")
    requested = [names] if isinstance(names, str) else list(names or ())
    if requested and all(name in components_by_kind(Tracker) for name in requested):
        options.take("report_to", path)
        yield from requested
    else:
        options.leave("report_to", f"trackers are named one by one here: {', '.join(components_by_kind(Tracker))}")
    if (project := options.take("wandb", path)) is not None:
        yield {"kind": "wandb", "project": str(project)}
    for name in ("tensorboard", "mlflow"):
        if options.take(name, path):
            yield name


_PRECISIONS = {
    "True": "bfloat16", "False": "float32", "auto": "auto", "bfloat16": "bfloat16", "bf16": "bfloat16",
    "float32": "float32", "fp32": "float32",
}  # fmt: skip
