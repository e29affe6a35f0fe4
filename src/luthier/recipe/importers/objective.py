"""The objective that another tool's file asks for, and its settings: supervised, by preference, or by reinforcement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from luthier.core.errors import InputError
from luthier.recipe.importers import import_report as reasons
from luthier.recipe.importers.import_report import ImportOptionReader, map_same_names

PLACE = "steps.tune.objective"
PREFER: Mapping[str, Mapping[str, str]] = {
    "dpo": map_same_names("beta", "label_smoothing", "normalize") | {"sft": "rpo_alpha"},
    "cpo": map_same_names("beta", "label_smoothing") | {"sft": "cpo_alpha"},
    "simpo": map_same_names("beta", "gamma") | {"sft": "cpo_alpha"},
    "orpo": {"beta": "weight"},
    "kto": map_same_names("beta", "desirable_weight", "undesirable_weight", "label"),
    "reward": map_same_names("center"),
}
"""What objectives of preferences are told, by common names."""
REINFORCE: Mapping[str, Mapping[str, str]] = {
    "grpo": map_same_names("epsilon", "epsilon_high"),
    "rloo": map_same_names("epsilon") | {"normalize_advantages": "normalize"},
    "ppo": {},
    "online_dpo": map_same_names("beta"),
}
"""The same of objectives that learn from what the model writes."""
FORMS: Mapping[str, Mapping[str, str]] = {
    "dpo": map_same_names("sigmoid", "hinge", "ipo", "robust", "apo_zero", "apo_down"),
    "cpo": map_same_names("sigmoid", "hinge", "ipo"),
    "kto": {"kto": "kto", "apo_zero_unpaired": "apo_zero"},
    "online_dpo": map_same_names("sigmoid", "ipo"),
}
"""TRL's names for losses, and those here."""
AVERAGES = {"grpo": "row", "dapo": "token", "bnpo": "token", "dr_grpo": "constant"}
SCALES = {"True": "group", "group": "group", "batch": "batch", "False": "none", "none": "none"}
SMOOTHED = ("sigmoid", "robust")
PENALTIES: Mapping[str, str] = {"grpo": "k3", "rloo": "k1", "ppo": "k1"}
"""How TRL's trainers measure divergence: in the loss, or taken off the reward."""
NEAREST: Mapping[str, str] = {
    "process_reward_model": "steps of an answer are not judged one by one; `reward_model: true`, over pairs of whole "
    "answers, is the nearest",
    "ebft": "`rl: grpo`, with what judges the answers as its rewards, is the nearest",
}
"""What to ask for in place of methods that there are not."""
REWARDS: Mapping[str, dict[str, Any]] = {
    "accuracy_reward": {"kind": "numeric"},
    "think_format_reward": {"kind": "regex", "pattern": r"<think>.*?</think>.*", "where": "whole"},
    "get_soft_overlong_punishment": {"kind": "length", "free": 1024, "max": 1280},
}
"""TRL's own reward functions, and the parts that judge by the same."""


def build_objective_settings(options: ImportOptionReader) -> dict[str, Any]:
    """The settings of the step's objective."""
    method = str(options.take("method", f"{PLACE}.kind") or "sft")
    if method == "sft":
        return _supervised(options)
    if method not in (*PREFER, *REINFORCE):
        known = ", ".join(("sft", *PREFER, *REINFORCE))
        nearest = NEAREST.get(method, f"write the nearest there is into it: {known}")
        raise InputError(f"the file asks for {method!r}, which there is not here", hint=nearest)
    options.leave("truncation", "a row of a pair, or a prompt, that is too long is left out, counted and listed")
    options.leave("train_on", "all of an answer is learnt")
    return (_preference if method in PREFER else _reinforcement)(method, options)


def _supervised(options: ImportOptionReader) -> dict[str, Any]:
    options.leave("loss_type", "the loss is minus the log-probability of what is learnt")
    found: dict[str, Any] = {"kind": "sft"}
    if options.get("truncation") not in ("drop", "prompt", "right"):
        options.leave("truncation", "a row that is too long is left out, counted and listed; nothing stops for it")
    casts: Mapping[str, Callable[[Any], Any]] = {"max_length": int, "truncation": str, "train_on": str}
    for name, made in casts.items():
        if (value := options.take(name, f"{PLACE}.{name}")) is not None:
            found[name] = made(value)
    return found


def _preference(method: str, options: ImportOptionReader) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": method}
    if (tokens := options.take("max_length", f"{PLACE}.max_length")) is not None:
        found["max_length"] = int(tokens)
    _form(method, options, found)
    if found.get("loss_type", "sigmoid") not in SMOOTHED:
        options.leave("label_smoothing", f"it changes nothing under the loss {found['loss_type']}")
    for name in ("max_prompt_length", "max_completion_length"):
        options.leave(name, "`max_length` bounds prompt and answer together")
    _settings(PREFER[method], options, found)
    if found.get("loss_type") == "robust" and not found.get("label_smoothing"):
        found["loss_type"] = "sigmoid"  # what robust is when no label is wrong
    return found


def _form(method: str, options: ImportOptionReader, found: dict[str, Any]) -> None:
    """The loss of an objective that has several."""
    loss_type = str(options.get("loss_type") or "")
    if loss_type in FORMS.get(method, {}):
        options.take("loss_type", f"{PLACE}.loss_type")
        found["loss_type"] = FORMS[method][loss_type]
    else:
        options.leave("loss_type", f"there is no such loss here; the usual one of {method} stands in its place")


def _settings(names: Mapping[str, str], options: ImportOptionReader, found: dict[str, Any]) -> None:
    for name, setting in names.items():
        if (value := options.take(name, f"{PLACE}.{setting}")) is not None:
            found[setting] = value if isinstance(value, (bool, str)) and not _is_number(value) else float(value)


def _is_number(value: bool | str) -> bool:
    """Whether it is text that YAML did not read as the number it is, such as 1e-3."""
    try:
        return isinstance(value, str) and float(value) is not None
    except ValueError:
        return False


def _reinforcement(method: str, options: ImportOptionReader) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": method, "rewards": _rewards(options), "rollout": _rollout(options)}
    if method == "online_dpo":
        _form(method, options, found)
    _settings(REINFORCE[method], options, found)
    if method == "grpo":
        found |= _grpo(options, found)
    cost = float(options.take("beta", f"{PLACE}.kl.coefficient") or 0) if method in PENALTIES else 0.0
    if cost:
        found["kl"] = {"coefficient": cost, "estimator": PENALTIES[method]}
    if (unbiased := options.get("unbiased")) is not None and cost and method == "grpo":
        found["kl"]["unbiased"] = bool(unbiased)
        options.take("unbiased", f"{PLACE}.kl.unbiased")
    options.leave("unbiased", "nothing holds the model near to where it began")
    options.leave(
        "max_length", "answers are bounded by `rollout.max_completion_length`, prompts by `max_prompt_length`"
    )
    return found


def _rollout(options: ImportOptionReader) -> dict[str, Any]:
    """How answers are drawn."""
    found: dict[str, Any] = {}
    for name in ("num_generations", "max_completion_length", "max_prompt_length"):
        if (value := options.take(name, f"{PLACE}.rollout.{name}")) is not None:
            found[name] = int(value)
    if options.take("masked", f"{PLACE}.rollout.truncated"):
        found["truncated"] = "mask"
    return found


def _grpo(options: ImportOptionReader, found: dict[str, Any]) -> dict[str, Any]:
    """What the variants of GRPO differ in."""
    more: dict[str, Any] = {"epsilon_high": found.get("epsilon_high", found.get("epsilon", 0.2))}
    apart = options.get("combine") == "normalize_then_sum"
    if options.take("combine", f"{PLACE}.scale_rewards") is not None and apart:
        more["scale_rewards"] = "rewards"
        options.leave("scale_rewards", "each reward is divided by its own deviation first, as there")
    for name, setting, known in (
        ("loss_type", "average", AVERAGES),
        ("scale_rewards", "scale_rewards", SCALES),
        ("importance_sampling_level", "importance_sampling_level", map_same_names("token", "sequence")),
    ):
        value = str(options.get(name))
        if value in known:
            options.take(name, f"{PLACE}.{setting}")
            more[setting] = known[value]
        else:
            options.leave(name, f"there is no such {setting} here; the usual one stands in its place")
    return more


def _rewards(options: ImportOptionReader) -> list[dict[str, Any]]:
    """The rewards that are parts here, each with its weight; something has to stand in where there is none."""
    named = options.get("rewards")
    names = [named] if isinstance(named, str) else list(named or ())
    given = options.get("reward_weights")
    weights = [float(entry) for entry in given] if isinstance(given, list) else []
    judged = [(REWARDS[name.rpartition(".")[2]], at) for at, name in enumerate(names) if _known(name)]
    if named is not None and len(judged) == len(names):
        options.take("rewards", f"{PLACE}.rewards")
    options.leave("rewards", reasons.CODE)
    options.leave("reward_model", reasons.JUDGE)
    if len(weights) == len(names):
        options.take("reward_weights", f"{PLACE}.rewards, as far as they stand there")
    found = [dict(part) | ({"weight": weights[at]} if len(weights) == len(names) else {}) for part, at in judged]
    return found or [{"kind": "exact"}]


def _known(name: str) -> bool:
    return name.removeprefix("trl.rewards.") in REWARDS
