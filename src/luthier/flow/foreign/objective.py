"""The objective that another tool's file asks for, and its settings: supervised, by preference, or by reinforcement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from luthier.core.errors import InputError
from luthier.flow.foreign import reasons
from luthier.flow.foreign.account import Wishes

PLACE = "steps.tune.objective"
PREFER: Mapping[str, Mapping[str, str]] = {
    "dpo": {"beta": "beta", "smoothing": "label_smoothing", "sft": "sft", "normalise": "normalise"},
    "cpo": {"beta": "beta", "smoothing": "label_smoothing", "sft": "sft"},
    "simpo": {"beta": "beta", "gamma": "gamma", "sft": "sft"},
    "orpo": {"beta": "weight"},
    "kto": {"beta": "beta", "good": "good", "bad": "bad", "label": "label"},
    "reward": {"center": "center"},
}
"""What objectives of preferences are told, by common names."""
REINFORCE: Mapping[str, Mapping[str, str]] = {
    "grpo": {"clip_low": "clip_low", "clip_high": "clip_high"},
    "rloo": {"clip_low": "clip", "whiten": "normalise"},
    "ppo": {},
    "online_dpo": {"beta": "beta"},
}
"""The same of objectives that learn from what the model writes."""
FORMS: Mapping[str, Mapping[str, str]] = {
    "dpo": {name: name for name in ("sigmoid", "hinge", "ipo", "robust", "apo_zero", "apo_down")},
    "cpo": {name: name for name in ("sigmoid", "hinge", "ipo")},
    "kto": {"kto": "kto", "apo_zero_unpaired": "apo_zero"},
    "online_dpo": {"sigmoid": "sigmoid", "ipo": "ipo"},
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
    "get_soft_overlong_punishment": {"kind": "length", "free": 1024, "most": 1280},
}
"""TRL's own reward functions, and the parts that judge by the same."""


def objective(wishes: Wishes) -> dict[str, Any]:
    """The settings of the step's objective."""
    method = str(wishes.take("method", f"{PLACE}.kind") or "sft")
    if method == "sft":
        return _supervised(wishes)
    if method not in (*PREFER, *REINFORCE):
        known = ", ".join(("sft", *PREFER, *REINFORCE))
        nearest = NEAREST.get(method, f"write the nearest there is into it: {known}")
        raise InputError(f"the file asks for {method!r}, which there is not here", remedy=nearest)
    wishes.leave("too_long", "a row of a pair, or a prompt, that is too long is left out, counted and listed")
    wishes.leave("learn", "all of an answer is learnt")
    return (_preference if method in PREFER else _reinforcement)(method, wishes)


def _supervised(wishes: Wishes) -> dict[str, Any]:
    wishes.leave("form", "the loss is minus the log-probability of what is learnt")
    found: dict[str, Any] = {"kind": "sft"}
    if wishes.get("too_long") not in ("drop", "prompt", "right"):
        wishes.leave("too_long", "a row that is too long is left out, counted and listed; nothing stops for it")
    told: Mapping[str, Callable[[Any], Any]] = {"max_tokens": int, "too_long": str, "learn": str}
    for name, made in told.items():
        if (value := wishes.take(name, f"{PLACE}.{name}")) is not None:
            found[name] = made(value)
    return found


def _preference(method: str, wishes: Wishes) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": method}
    if (tokens := wishes.take("max_tokens", f"{PLACE}.max_tokens")) is not None:
        found["max_tokens"] = int(tokens)
    _form(method, wishes, found)
    if found.get("form", "sigmoid") not in SMOOTHED:
        wishes.leave("smoothing", f"it changes nothing under the form {found['form']}")
    for name in ("max_prompt_tokens", "max_new_tokens"):
        wishes.leave(name, "`max_tokens` bounds prompt and answer together")
    _settings(PREFER[method], wishes, found)
    if found.get("form") == "robust" and not found.get("label_smoothing"):
        found["form"] = "sigmoid"  # what robust is when no label is wrong
    return found


def _form(method: str, wishes: Wishes, found: dict[str, Any]) -> None:
    """The loss of an objective that has several."""
    told = str(wishes.get("form") or "")
    if told in FORMS.get(method, {}):
        wishes.take("form", f"{PLACE}.form")
        found["form"] = FORMS[method][told]
    else:
        wishes.leave("form", f"there is no such loss here; the usual one of {method} stands in its place")


def _settings(names: Mapping[str, str], wishes: Wishes, found: dict[str, Any]) -> None:
    for name, setting in names.items():
        if (value := wishes.take(name, f"{PLACE}.{setting}")) is not None:
            found[setting] = value if isinstance(value, (bool, str)) and not _is_number(value) else float(value)


def _is_number(value: bool | str) -> bool:
    """Whether it is text that YAML did not read as the number it is, such as 1e-3."""
    try:
        return isinstance(value, str) and float(value) is not None
    except ValueError:
        return False


def _reinforcement(method: str, wishes: Wishes) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": method, "rewards": _rewards(wishes), "rollout": _rollout(wishes)}
    if method == "online_dpo":
        _form(method, wishes, found)
    _settings(REINFORCE[method], wishes, found)
    if method == "grpo":
        found |= _grpo(wishes, found)
    cost = float(wishes.take("beta", f"{PLACE}.kl.coefficient") or 0) if method in PENALTIES else 0.0
    if cost:
        found["kl"] = {"coefficient": cost, "estimator": PENALTIES[method]}
    if (unbiased := wishes.get("unbiased")) is not None and cost and method == "grpo":
        found["kl"]["unbiased"] = bool(unbiased)
        wishes.take("unbiased", f"{PLACE}.kl.unbiased")
    wishes.leave("unbiased", "nothing holds the model near to where it began")
    wishes.leave("max_tokens", "answers are bounded by `rollout.max_new_tokens`, prompts by `max_prompt_tokens`")
    return found


def _rollout(wishes: Wishes) -> dict[str, Any]:
    """How answers are drawn."""
    found: dict[str, Any] = {}
    for name, setting in (
        ("samples", "samples"), ("max_new_tokens", "max_new_tokens"), ("max_prompt_tokens", "max_prompt_tokens")
    ):  # fmt: skip
        if (value := wishes.take(name, f"{PLACE}.rollout.{setting}")) is not None:
            found[setting] = int(value)
    if wishes.take("masked", f"{PLACE}.rollout.truncated"):
        found["truncated"] = "mask"
    return found


def _grpo(wishes: Wishes, found: dict[str, Any]) -> dict[str, Any]:
    """What the variants of GRPO differ in."""
    more: dict[str, Any] = {"clip_high": found.get("clip_high", found.get("clip_low", 0.2))}
    apart = wishes.get("combine") == "normalize_then_sum"
    if wishes.take("combine", f"{PLACE}.scale") is not None and apart:
        more["scale"] = "rewards"
        wishes.leave("scale", "each reward is divided by its own deviation first, as there")
    for name, setting, known in (
        ("form", "average", AVERAGES),
        ("scale", "scale", SCALES),
        ("ratio", "ratio", {"token": "token", "sequence": "sequence"}),
    ):
        told = str(wishes.get(name))
        if told in known:
            wishes.take(name, f"{PLACE}.{setting}")
            more[setting] = known[told]
        else:
            wishes.leave(name, f"there is no such {setting} here; the usual one stands in its place")
    return more


def _rewards(wishes: Wishes) -> list[dict[str, Any]]:
    """The rewards that are parts here, each with its weight; something has to stand in where there is none."""
    named = wishes.get("rewards")
    names = [named] if isinstance(named, str) else list(named or ())
    given = wishes.get("reward_weights")
    weights = [float(one) for one in given] if isinstance(given, list) else []
    judged = [(REWARDS[name.rpartition(".")[2]], at) for at, name in enumerate(names) if _known(name)]
    if named is not None and len(judged) == len(names):
        wishes.take("rewards", f"{PLACE}.rewards")
    wishes.leave("rewards", reasons.CODE)
    wishes.leave("reward_model", reasons.JUDGE)
    if len(weights) == len(names):
        wishes.take("reward_weights", f"{PLACE}.rewards, as far as they stand there")
    found = [dict(part) | ({"weight": weights[at]} if len(weights) == len(names) else {}) for part, at in judged]
    return found or [{"kind": "exact"}]


def _known(name: str) -> bool:
    return name.removeprefix("trl.rewards.") in REWARDS
