"""Names that settings and kinds of parts had before the field's own words took their place.

`luthier migrate` rewrites a recipe by these tables, and an error about an old name says the new one.
"""

from __future__ import annotations

from collections.abc import Mapping

FORMER_KINDS: Mapping[str, Mapping[str, str]] = {
    "step": {
        "propose": "prelabel", "select": "sample_for_labeling", "assign": "human_eval", "judgments": "human_ratings",
    },
    "operator": {"normalise": "normalize", "leave_out": "exclude_ids"},
    "probe": {"memorisation": "memorization"},
    "task": {"harness": "lm_eval"},
}  # fmt: skip
"""Former kinds by role."""
FORMER_FORM_KINDS: Mapping[str, str] = {"pairwise": "pair", "likert": "rating", "spans": "faults"}
"""Former kinds of what `human_eval` asks, which stood in its setting `form`; today a question of kind `spans` is
another one."""
FORMER_FILES: Mapping[str, str] = {
    "tuned.json": "training.json", "learnt.parquet": "training_examples.parquet", "verdict.json": "gate.json",
    "people.json": "human_eval.json",
}  # fmt: skip
"""Former names of artifacts' files."""
_FORMER_SETTINGS: Mapping[str, Mapping[str, str]] = {
    "BottleneckAdapter": {"reduction": "reduction_factor", "bend": "non_linearity", "place": "adapter_type"},
    "Alert": {"when": "expr", "certain": "significant"},
    "HumanEval": {"form": "question", "report": "evaluation", "judges": "annotators", "planted": "attention_checks"},
    "BiasTerms": {"least": "min"},
    "Boilerplate": {"at_least": "min"},
    "Classify": {"max_tokens": "max_length", "normalise": "normalize"},
    "Coreference": {"normalise": "normalize"},
    "Cpo": {"form": "loss_type", "sft": "cpo_alpha"},
    "DocumentSource": {"piece": "chunk_by", "length": "chunk_size"},
    "DpoObjective": {"form": "loss_type", "sft": "rpo_alpha", "normalise": "normalize"},
    "EndpointModelSource": {"at_once": "max_concurrency"},
    "EndpointRolloutGenerator": {"at_once": "max_concurrency"},
    "Evaluate": {"rows": "limit", "against": "compare_with", "normalise": "normalize"},
    "Fairness": {"least": "min"},
    "FitThresholds": {"least": "min", "report": "evaluation"},
    "Gate": {"report": "evaluation", "people": "human_ratings"},
    "FaultsQuestion": {"most": "max"},
    "GroupBalance": {"most": "max"},
    "GroupGap": {"least": "min"},
    "Grpo": {
        "scale": "scale_rewards",
        "ratio": "importance_sampling_level",
        "clip_low": "epsilon",
        "clip_high": "epsilon_high",
    },
    "LmEvalTask": {"shots": "num_fewshot", "rows": "limit"},
    "Ia3": {"targets": "target_modules", "feedforward": "feedforward_modules"},
    "ClassImbalance": {"least": "min"},
    "JudgeScorer": {"least": "min", "most": "max", "at_once": "max_concurrency"},
    "HumanRatings": {"planted_right": "min_attention_checks"},
    "Kto": {"form": "loss_type", "good": "desirable_weight", "bad": "undesirable_weight", "max_tokens": "max_length"},
    "LabelEngine": {"normalise": "normalize", "at_once": "max_num_seqs", "waiting": "max_queue_size"},
    "LabelErrors": {"least": "min"},
    "LanguageReward": {"wanted": "languages"},
    "LanguageSignal": {"wanted": "languages"},
    "LengthOperator": {"at_least": "min", "at_most": "max"},
    "LengthReward": {"most": "max"},
    "LlamaCppEngine": {"at_once": "max_num_seqs", "waiting": "max_queue_size"},
    "Lora": {"dora": "use_dora", "start": "init_lora_weights"},
    "LowRankTechnique": {
        "alpha": "lora_alpha",
        "targets": "target_modules",
        "rslora": "use_rslora",
        "dropout": "lora_dropout",
        "b_rate": "loraplus_lr_ratio",
    },
    "MajorityAdjudicator": {"at_least": "min"},
    "Mbox": {"desk": "support_team"},
    "Minilm": {
        "at_least": "min_score",
        "organisations_at_least": "organizations_min_score",
        "addresses_at_least": "addresses_min_score",
    },
    "Merge": {"dequantise": "dequantize"},
    "Monitor": {"report": "evaluation", "every": "interval", "history": "lookback"},
    "NumericMatch": {"place": "position"},
    "OnlineDpo": {"form": "loss_type"},
    "PTuning": {
        "tokens": "num_virtual_tokens",
        "encoder": "encoder_reparameterization_type",
        "encoder_size": "encoder_hidden_size",
        "layers": "encoder_num_layers",
    },
    "PairObjective": {"max_tokens": "max_length"},
    "Pii": {"names": "ner", "last_look": "final_check"},
    "Ppo": {"clip_low": "epsilon", "clip_high": "epsilon_high"},
    "Preferences": {"report": "evaluation", "judgments": "human_ratings"},
    "PrefixTuning": {"tokens": "num_virtual_tokens", "encoder_size": "encoder_hidden_size"},
    "PromptSearch": {"normalise": "normalize"},
    "PromptTuning": {"tokens": "num_virtual_tokens", "init": "prompt_tuning_init", "text": "prompt_tuning_init_text"},
    "Prelabel": {"normalise": "normalize"},
    "BiasQuestionProbe": {"normalise": "normalize"},
    "Raft": {"at_least": "min"},
    "Rampart": {"at_least": "min_score", "organisations": "organizations"},
    "ReinforcePlusPlus": {"clip_low": "epsilon", "clip_high": "epsilon_high"},
    "RemoteEngine": {"at_once": "max_num_seqs", "waiting": "max_queue_size"},
    "Reweigh": {"most": "max"},
    "Rloo": {"clip": "epsilon", "normalise": "normalize"},
    "RolloutSettings": {
        "samples": "num_generations",
        "max_new_tokens": "max_completion_length",
        "max_prompt_tokens": "max_prompt_length",
        "steps": "steps_per_generation",
    },
    "RubricQuestion": {"most": "max"},
    "Sft": {"max_tokens": "max_length", "too_long": "truncation", "learn": "train_on"},
    "Simpo": {"sft": "cpo_alpha"},
    "SlackSource": {"desk": "support_team"},
    "Source": {"missing": "null_values", "first": "limit"},
    "Stereotypes": {"least": "min"},
    "TokenCountOperator": {"at_least": "min", "at_most": "max"},
    "TorchEngine": {"tokens": "max_num_batched_tokens", "at_once": "max_num_seqs", "waiting": "max_queue_size"},
    "ToxicityOperator": {"at_most": "max"},
    "Tune": {
        "rows": "max_train_samples",
        "rows_per_step": "batch_size",
        "tokens_per_pack": "max_tokens_per_microbatch",
        "clip": "max_grad_norm",
        "warmup": "warmup_ratio",
        "schedule": "lr_scheduler",
        "precision": "dtype",
        "held_out": "validation",
        "keep_epochs": "save_epochs",
        "checkpoint_steps": "save_steps",
        "continues": "resume_from",
        "on_spike": "on_loss_spike",
        "spike": "loss_spike",
        "trackers": "report_to",
    },
    "UnanimousAdjudicator": {"at_least": "min"},
    "UnitTestScorer": {"at_once": "max_concurrency"},
    "UnknownWords": {"most": "max"},
    "VllmEngine": {"at_once": "max_num_seqs", "waiting": "max_queue_size"},
}
"""Former settings by the name of the class that has them."""


def former_settings(cls: type) -> dict[str, str]:
    """The present name of each former setting of a class, those of its parents included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= _FORMER_SETTINGS.get(base.__name__, {})
    return found
