"""TRL's trainers for preferences and reinforcement (TRL 1.16): their options, their defaults, and which a file is for.

axolotl and LLaMA-Factory call these trainers, or do what they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.recipe.importers import import_report as reasons
from luthier.recipe.importers.import_report import map_same_names
from luthier.recipe.importers.objective import FORMS

NAMES: Mapping[str, str] = map_same_names(
    "beta", "loss_type", "label_smoothing", "desirable_weight", "undesirable_weight", "num_generations",
    "max_completion_length", "max_prompt_length", "reward_weights", "epsilon", "epsilon_high",
    "importance_sampling_level", "scale_rewards", "normalize_advantages",
) | {
    "rpo_alpha": "sft", "cpo_alpha": "sft", "simpo_gamma": "gamma", "center_rewards_coefficient": "center",
    "max_new_tokens": "max_completion_length", "reward_funcs": "rewards", "reward_model_path": "reward_model",
    "reward_model_name_or_path": "reward_model", "mask_truncated_completions": "masked",
    "multi_objective_aggregation": "combine", "use_bias_correction_kl": "unbiased",
}  # fmt: skip
LEFT: Mapping[str, str] = {
    "loss_type.*": "one loss is learnt, and `rpo_alpha` beside it",
    "loss_weights": "the loss counts 1, and `rpo_alpha` beside it",
    "ld_alpha": "tokens of an answer count alike",
    "f_divergence_type": "divergence is the reverse one, as in DPO itself", "use_weighting": "pairs count alike",
    "f_alpha_divergence_coef": "divergence is the reverse one, as in DPO itself",
    "discopop_tau": "there is no such loss here",
    "alpha": "there is no such objective here",
    "disable_dropout": "a model's own dropout is off but under `sft` and its kin; an adapter's is the technique's "
    "`lora_dropout`, 0 unless set",
    "precompute_ref*": reasons.REFERENCE, "reference_free": reasons.REFERENCE, "sync_ref_model": reasons.REFERENCE,
    "ref_model*": reasons.REFERENCE, "force_use_ref_model": reasons.REFERENCE,
    "generate_during_eval": reasons.EVALUATED,
    "is_encoder_decoder": "language models are tuned as language models", "padding_value": reasons.TOKENS,
    "label_pad_token_id": reasons.TOKENS, "max_target_length": "`max_length` bounds prompt and answer together",
    "temperature": reasons.DRAWN, "top_p": reasons.DRAWN, "top_k": reasons.DRAWN, "min_p": reasons.DRAWN,
    "repetition_penalty": reasons.DRAWN, "generation_kwargs": reasons.DRAWN, "chat_template_kwargs": reasons.TEMPLATE,
    "cache_implementation": reasons.WRITER, "use_vllm": reasons.WRITER, "vllm_*": reasons.WRITER,
    "use_transformers_*": reasons.WRITER, "transformers_continuous_batching_config": reasons.WRITER,
    "ds3_gather_for_generation": reasons.ALONE, "generation_batch_size": reasons.MEMORY,
    "steps_per_generation": "`rollout.steps_per_generation` says how many steps learn from answers drawn at once",
    "num_iterations": "an answer is learnt once: `rollout.steps_per_generation` draws more at once",
    "num_generations_eval": reasons.EVALUATED, "num_completions_to_print": reasons.LOGGED,
    "cast_lm_head_to_fp32": "log-probabilities are always computed in float32",
    "delta": "a ratio has the bounds `epsilon` and `epsilon_high`", "sapo_*": "there is no such loss here",
    "vespo_*": "there is no such loss here", "top_entropy_quantile": "tokens of an answer count alike",
    "entropy_*": "entropy is logged, not learnt", "use_adaptive_entropy": "entropy is logged, not learnt",
    "reward_clip_range": "rewards count as they are",
    "off_policy_mask_threshold": "`correct` bounds how much a token counts",
    "max_tool_calling_iterations": "tools are an `environment` of the rollout",
    "missing_eos_penalty": "`rollout.truncated` may be the worth of an answer that was cut off",
    "judge": reasons.JUDGE,
}  # fmt: skip
_PAIR = {"learning_rate": 1e-6, "beta": 0.1}
USUAL: Mapping[str, Mapping[str, Any]] = {
    "dpo": _PAIR,
    "cpo": _PAIR | {"sft": 1.0},
    "simpo": _PAIR | {"sft": 1.0, "gamma": 0.5},
    "orpo": _PAIR,
    "kto": _PAIR,
    "reward": {"learning_rate": 1e-4},
    "grpo": {
        "learning_rate": 1e-6,
        "num_generations": 8,
        "max_completion_length": 512,
        "epsilon": 0.2,
        "loss_type": "dapo",
    },
    "rloo": {"learning_rate": 1e-6, "num_generations": 2, "max_completion_length": 512, "epsilon": 0.2, "beta": 0.05},
    "online_dpo": {"learning_rate": 5e-7, "num_generations": 2, "max_completion_length": 64, "beta": 0.1},
}
"""What the trainers do where a file is silent, by the objective here."""
_CALLED = ("online_dpo", "simpo", "orpo", "cpo", "kto", "dpo", "grpo", "rloo", "reward")
_OF_PAIRS = frozenset({
    "beta", "label_smoothing", "max_prompt_length", "precompute_ref_log_probs", "rpo_alpha", "f_divergence_type",
    "loss_weights", "ref_model_sync_steps", "sync_ref_model", "reference_free",
})  # fmt: skip
_OF_POLICIES = frozenset({
    "reward_funcs", "reward_weights", "reward_model_path", "num_generations", "epsilon", "epsilon_high",
    "scale_rewards", "importance_sampling_level", "mask_truncated_completions", "missing_eos_penalty",
})  # fmt: skip


_SIGNS = (
    (frozenset({"normalize_advantages", "reward_clip_range"}), "rloo"),
    (frozenset({"missing_eos_penalty"}), "online_dpo"),
    (_OF_POLICIES, "grpo"),
    (frozenset({"desirable_weight", "undesirable_weight"}), "kto"),
    (frozenset({"center_rewards_coefficient"}), "reward"),
    (frozenset({"simpo_gamma"}), "simpo"),
    (frozenset({"cpo_alpha"}), "cpo"),
)
"""Options that only one trainer has."""
_OF_FORM = {"simpo": "simpo", **dict.fromkeys(FORMS["kto"], "kto")}


def detect_trainer_objective(options: Mapping[str, Any], name: str) -> str:
    """The objective of the trainer whose options stand in a file of TRL's, which does not say it; its name may."""
    form, given, name = str(options.get("loss_type")), options.keys(), name.lower().replace("-", "_")
    called = next((entry for entry in _CALLED if entry in name and "sft" not in name), None)
    inferred = _OF_FORM.get(form) or next((method for signs, method in _SIGNS if signs & given), None)
    if inferred == "grpo" and called in ("rloo", "online_dpo"):
        return called
    return inferred or called or ("dpo" if _OF_PAIRS & given or form in FORMS["dpo"] else "sft")


def merge_loss_list(options: dict[str, Any], form: str = "loss_type", weights: str = "loss_weights") -> None:
    """A list of losses as one loss, and the weight of the plain one beside it."""
    loss_types = options.get(form)
    if not isinstance(loss_types, list) or not loss_types:
        return
    counts = options.get(weights) or [1.0] * len(loss_types)
    pairs = dict(zip(map(str, loss_types), map(float, counts), strict=False))
    plain = pairs.pop("sft", None)
    first, *more = pairs or {"sft": 1.0}
    options[form] = first
    for at, other in enumerate(more, start=1):
        options[f"loss_type.{at}"] = other
    if plain is not None and pairs:
        options["rpo_alpha"] = plain / (pairs[first] or 1.0)
