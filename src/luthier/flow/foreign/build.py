"""A recipe from wishes under common names: the counterpart of each option that has one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from luthier.core.component import members
from luthier.core.errors import InputError, did_you_mean
from luthier.flow.foreign.account import Wishes
from luthier.flow.foreign.objective import PREFER, REINFORCE, objective
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
    "r": int, "alpha": float, "dropout": float, "rslora": bool, "dora": bool, "b_rate": float, "start": str,
}  # fmt: skip
STARTS = ("gaussian", "pissa", "olora", "eva")


def tune_step(wishes: Wishes, rows: int | None) -> dict[str, Any]:
    """The settings of the step `tune`; `rows` is how many it will learn from, when that is known."""
    if wishes.get("method") in REINFORCE:
        wishes.leave("dropout", "what a model writes is learnt without dropout")
    if wishes.get("method") in PREFER:
        wishes.leave(
            "dropout", "TRL's trainers learn preferences without any dropout, unless `disable_dropout` is false"
        )
    step: dict[str, Any] = {"kind": "tune", "data": "data", "technique": _technique(wishes)}
    step["objective"] = objective(wishes)
    step |= _pace(wishes, step["objective"].get("rollout"))
    _length(wishes, step, rows)
    step["optimizer"] = _optimizer(wishes)
    _rate(wishes, step, rows)
    _rest(wishes, step)
    return step


def _technique(wishes: Wishes) -> dict[str, Any]:
    place = f"{TUNE}.technique"
    kind = wishes.take("technique", f"{place}.kind") or "full"
    bits = next((number for number in (4, 8) if wishes.get(f"{number}bit")), None) or wishes.get("bits")
    if kind == "lora" and bits:
        kind = "qlora"
    if kind not in members(Technique):
        hint = f"write the nearest there is into it (lora, mostly), and all the rest is imported; {_known(kind)}"
        raise InputError(f"the file asks for the technique {kind!r}, which there is not here", remedy=hint)
    found: dict[str, Any] = {"kind": kind}
    if kind == "qlora":
        for name in ("4bit", "8bit", "bits"):
            wishes.take(name, f"{place}.bits")
        found["bits"] = int(bits or 4)
    if kind == "layers":
        told = (
            ("last", wishes.take("last_layers", f"{place}.last")),
            ("blocks", wishes.take("blocks", f"{place}.blocks")),
        )
        found |= {setting: value for setting, value in told if value is not None}
    if wishes.get("start") is not None and wishes.get("start") not in STARTS:
        wishes.leave("start", f"an adapter begins here in one of these ways: default, {', '.join(STARTS)}")
    for name, number in LORA.items():
        if name in members(Technique)[kind].model_fields and wishes.get(name) is not None:
            found[name] = number(wishes.take(name, f"{place}.{name}"))
        else:
            wishes.leave(name, f"the technique {kind} has none")
    if "targets" not in members(Technique)[kind].model_fields:
        wishes.leave("targets", f"the technique {kind} has none")
    elif (targets := wishes.take("targets", f"{place}.targets")) is not None:
        found["targets"] = _targets(targets)
    elif kind in ("lora", "qlora"):
        wishes.account.left["lora_target_modules: (PEFT's default)"] = _ALL_LINEAR
    return found


def _known(kind: str) -> str:
    return did_you_mean(kind, members(Technique))


_ALL_LINEAR = "PEFT's usual choice, often two layers of attention; all linear layers here: name `targets` otherwise"


def _targets(value: Any) -> str | list[str]:
    """Names as a list; what means all linear layers under its name here."""
    names = [one.strip() for one in value.split(",")] if isinstance(value, str) else list(value)
    return "all-linear" if names in (["all"], ["all-linear"], ["all_linear"]) else sorted(set(names))


def _pace(wishes: Wishes, rollout: dict[str, Any] | None) -> dict[str, Any]:
    """Epochs and rows of a step; other tools count the answers of a step where a model writes them, and prompts count
    here."""
    found: dict[str, Any] = {}
    if (epochs := wishes.take("epochs", f"{TUNE}.epochs")) is not None:
        found["epochs"] = float(epochs)
    place = f"{TUNE}.rows_per_step"
    whole, micro, times = (wishes.take(name, place) for name in ("batch", "micro_batch", "accumulation"))
    rows = int(whole or int(micro or 1) * int(times or 1))
    found["rows_per_step"] = max(1, rows // max(1, int(rollout.get("samples", 1)))) if rollout is not None else rows
    return found


def _length(wishes: Wishes, step: dict[str, Any], rows: int | None) -> None:
    """Epochs from a number of steps, which goes before them; where rows cannot be counted yet, as many as it takes."""
    steps = int(wishes.get("max_steps") or 0)
    if steps <= 0:
        wishes.leave("max_steps", "it bounds nothing there, either")
    elif rows is None:
        wishes.take("max_steps", f"{TUNE}.rows (what so many steps read, as far as the data set has it) and .epochs")
        step |= {"rows": steps * step["rows_per_step"], "epochs": 1.0}
    else:
        wishes.take("max_steps", f"{TUNE}.epochs (so many steps over {rows} rows; it goes before epochs)")
        step["epochs"] = round(steps * step["rows_per_step"] / rows, 6)


def _optimizer(wishes: Wishes) -> dict[str, Any]:
    place = f"{TUNE}.optimizer"
    name = str(wishes.get("optimizer") or "adamw")
    found: dict[str, Any] = {"kind": OPTIMIZERS.get(name, "adamw")}
    if name in OPTIMIZERS:
        wishes.take("optimizer", f"{place}.kind")
    else:
        wishes.leave("optimizer", "there is no such optimizer here; AdamW stands in its place")
    if (decay := wishes.take("weight_decay", f"{place}.weight_decay")) is not None:
        found["weight_decay"] = float(decay)
    if found["kind"] == "adafactor":
        for name in ("beta1", "beta2", "eps"):
            wishes.leave(name, "Adafactor has none")
        return found
    if wishes.get("beta1") is not None or wishes.get("beta2") is not None:
        betas = wishes.take("beta1", f"{place}.betas"), wishes.take("beta2", f"{place}.betas")
        found["betas"] = [float(one or usual) for one, usual in zip(betas, (0.9, 0.999), strict=True)]
    if (eps := wishes.take("eps", f"{place}.eps")) is not None:
        found["eps"] = float(eps)
    for name in ("momentum", "nesterov", "iterations") if found["kind"] == "muon" else ():
        if (value := wishes.take(name, f"{place}.{name}")) is not None:
            found[name] = value
    return found


def _rate(wishes: Wishes, step: dict[str, Any], rows: int | None) -> None:
    """Height, shape and rise of the learning rate."""
    if (rate := wishes.take("learning_rate", f"{TUNE}.learning_rate")) is not None:
        step["learning_rate"] = float(rate)
    shape = str(wishes.get("schedule") or "")
    averages = step["optimizer"]["kind"] == "schedule_free"
    if averages:
        wishes.leave("schedule", "a schedule-free optimizer wants a constant rate")
    elif shape in SCHEDULES:
        wishes.take("schedule", f"{TUNE}.schedule")
        step["schedule"] = SCHEDULES[shape]
    else:
        wishes.leave("schedule", "there is no such schedule here; the usual one stands in its place")
    step["warmup"] = _warmup(wishes, step, rows)


def _warmup(wishes: Wishes, step: dict[str, Any], rows: int | None) -> float:
    """The share of all steps over which the rate rises, from a share or from a number of steps."""
    place = f"{TUNE}.warmup"
    number = float(wishes.get("warmup_steps") or 0)
    if 0 < number < 1 or not number:
        return float(wishes.take("warmup_steps", place) or wishes.take("warmup", place) or 0)
    wishes.leave("warmup", "the number of steps goes before it")
    if (rows := step.get("rows", rows)) is None:
        wishes.leave("warmup_steps", "warmup is a share of all steps here, and their number is not known yet")
        return 0.0
    steps = max(1, math.ceil(rows * step.get("epochs", 1.0) / step["rows_per_step"]))
    wishes.take("warmup_steps", f"{place} (of about {steps} steps)")
    return float(min(0.9, round(number / steps, 4)))


def _rest(wishes: Wishes, step: dict[str, Any]) -> None:
    """Clipping, precision, early stop; and what nobody has taken."""
    if (clip := wishes.take("clip", f"{TUNE}.clip")) is not None:
        step["clip"] = float(clip) or None
    for name in ("bf16", "dtype"):
        if (told := wishes.get(name)) is not None and str(told) in _PRECISIONS:
            step.setdefault("precision", _PRECISIONS[str(told)])
            wishes.take(name, f"{TUNE}.precision")
        wishes.leave(name, "a model computes in bfloat16 or float32 here")
    if (patience := wishes.take("patience", f"{TUNE}.held_out.patience")) is not None:
        step["held_out"] = {"patience": int(patience)}
    if trackers := list(_trackers(wishes)):
        step["trackers"] = trackers
    for name in wishes.rest():
        wishes.leave(name, "nothing here corresponds to it")


def _trackers(wishes: Wishes) -> Iterator[Any]:
    """The trackers that are asked for by name, or by a project of theirs."""
    place, names = f"{TUNE}.trackers", wishes.get("report_to")
    asked = [names] if isinstance(names, str) else list(names or ())
    if asked and all(name in members(Tracker) for name in asked):
        wishes.take("report_to", place)
        yield from asked
    else:
        wishes.leave("report_to", f"trackers are named one by one here: {', '.join(members(Tracker))}")
    if (project := wishes.take("wandb", place)) is not None:
        yield {"kind": "wandb", "project": str(project)}
    for name in ("tensorboard", "mlflow"):
        if wishes.take(name, place):
            yield name


_PRECISIONS = {
    "True": "bfloat16", "False": "float32", "auto": "auto", "bfloat16": "bfloat16", "bf16": "bfloat16",
    "float32": "float32", "fp32": "float32",
}  # fmt: skip
