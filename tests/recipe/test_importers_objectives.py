"""Files of other tuners for preferences and reinforcement become recipes with that objective; nothing is dropped."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.core.errors import InputError
from luthier.data.source import Source
from luthier.recipe.importers.trainers import detect_trainer_objective
from luthier.recipe.importers.translate import translate_config
from luthier.recipe.schema import Recipe

TRL: dict[str, Any] = {"model_name_or_path": "org/model", "use_peft": True, "lora_r": 8}
FACTORY: dict[str, Any] = {"model_name_or_path": "org/model", "finetuning_type": "lora", "cutoff_len": 256}
AXOLOTL: dict[str, Any] = {"base_model": "org/model", "adapter": "lora", "micro_batch_size": 8, "sequence_len": 256}
PAIRS = {"dataset_name": "data/pairs.jsonl"}
SUMS = {"dataset_name": "data/sums.jsonl"}
_ROWS: dict[str, Any] = {
    "pairs": lambda at: {"prompt": f"Ask {at}?", "chosen": f"Good {at}", "rejected": f"Bad {at}"},
    "turns": lambda at: {
        "conversations": [{"from": "human", "value": f"Ask {at}?"}],
        "chosen": {"from": "gpt", "value": f"Good {at}"},
        "rejected": {"from": "gpt", "value": f"Bad {at}"},
    },
    "marked": lambda at: {"prompt": f"Ask {at}?", "completion": f"Say {at}", "thumb": at % 2 == 0},
    "sums": lambda at: {"prompt": f"{at} + 1?", "answer": str(at + 1)},
    "asked": lambda at: {"prompt": f"Ask {at}?"},
    "talks": lambda at: {"prompt": [{"role": "user", "content": f"Ask {at}?"}]},
}
_INFO = {
    "pairs": {"file_name": "pairs.jsonl", "ranking": True, "columns": {"prompt": "prompt", "chosen": "chosen"}},
    "turns": {"file_name": "turns.jsonl", "columns": {"messages": "conversations", "chosen": "chosen"}},
    "marked": {
        "file_name": "marked.jsonl",
        "columns": {"prompt": "prompt", "response": "completion", "kto_tag": "thumb"},
    },
    "other": {"file_name": "pairs.jsonl", "columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "worse"}},
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    for name, row in _ROWS.items():
        text = "".join(json.dumps(row(at)) + "\n" for at in range(20))
        (data / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (data / "dataset_info.json").write_text(json.dumps(_INFO), encoding="utf-8")
    return tmp_path


def made(place: Path, options: dict[str, Any], name: str = "file") -> tuple[dict[str, Any], str]:
    """The step `tune` of the recipe that an options file becomes, which loads, and the recipe's text."""
    folder = place / "mine"
    folder.mkdir(exist_ok=True)
    text = translate_config(dict(options), place / f"{name}.yaml", folder).text
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    Recipe.load(folder)
    step: dict[str, Any] = yaml.safe_load(text)["steps"]["tune"]
    return step, text


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("asked", {"prompt": "prompt", "prompt_only": True}),  # what TRL calls a prompt-only data set
        ("talks", {"messages": "prompt"}),
        ("sums", {}),
    ],
)
def test_prompts_alone_are_read_where_the_model_answers_them_itself(
    name: str, wanted: dict[str, object], place: Path
) -> None:
    options = TRL | {"dataset_name": f"data/{name}.jsonl", "loss_type": "grpo", "num_generations": 4}
    _, text = made(place, options)
    source = yaml.safe_load(text)["steps"]["data"]["source"]
    assert {key: source[key] for key in ("prompt", "answer", "prompt_only", "messages") if key in source} == wanted
    with pytest.raises(InputError, match="cannot tell which columns"):
        made(place, TRL | {"dataset_name": "data/asked.jsonl"})  # a supervised tuning has nothing to learn from it


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (
            PAIRS | {"beta": 0.2, "loss_type": "hinge"},
            {"kind": "dpo", "max_length": 1024, "loss_type": "hinge", "beta": 0.2},
        ),
        (
            PAIRS | {"loss_type": ["ipo", "sft"], "loss_weights": [2.0, 1.0]},
            {"kind": "dpo", "max_length": 1024, "loss_type": "ipo", "beta": 0.1, "rpo_alpha": 0.5},
        ),
        (
            PAIRS | {"loss_type": "sigmoid_norm", "label_smoothing": "1e-1", "max_length": 64},
            {
                "kind": "dpo",
                "max_length": 64,
                "loss_type": "sigmoid",
                "beta": 0.1,
                "label_smoothing": 0.1,
                "normalize": "mean",
            },
        ),
        (PAIRS | {"loss_type": "robust"}, {"kind": "dpo", "max_length": 1024, "loss_type": "sigmoid", "beta": 0.1}),
        (
            PAIRS | {"loss_type": "simpo", "simpo_gamma": 0.4},
            {"kind": "simpo", "max_length": 1024, "beta": 0.1, "gamma": 0.4, "cpo_alpha": 1.0},
        ),
        (
            PAIRS | {"cpo_alpha": 0.5, "loss_type": "hinge"},
            {"kind": "cpo", "max_length": 1024, "loss_type": "hinge", "beta": 0.1, "cpo_alpha": 0.5},
        ),
        (
            {"dataset_name": "data/marked.jsonl", "desirable_weight": 1.3, "loss_type": "apo_zero_unpaired"},
            {"kind": "kto", "max_length": 1024, "loss_type": "apo_zero", "beta": 0.1, "desirable_weight": 1.3},
        ),
        (PAIRS | {"center_rewards_coefficient": 0.01}, {"kind": "reward", "max_length": 1024, "center": 0.01}),
        (
            SUMS
            | {
                "reward_funcs": ["accuracy_reward", "think_format_reward"],
                "reward_weights": [1.0, 0.5],
                "loss_type": "dr_grpo",
                "scale_rewards": False,
                "beta": 0.04,
                "epsilon_high": 0.28,
                "mask_truncated_completions": True,
                "use_bias_correction_kl": False,
            },
            {
                "kind": "grpo",
                "rewards": [
                    {"kind": "numeric", "weight": 1.0},
                    {"kind": "regex", "pattern": "<think>.*?</think>.*", "where": "whole", "weight": 0.5},
                ],
                "rollout": {"num_generations": 8, "max_completion_length": 512, "truncated": "mask"},
                "epsilon": 0.2,
                "epsilon_high": 0.28,
                "average": "constant",
                "scale_rewards": "none",
                "kl": {"coefficient": 0.04, "estimator": "k3", "unbiased": False},
            },
        ),
        (
            SUMS | {"reward_funcs": "accuracy_reward", "multi_objective_aggregation": "normalize_then_sum"},
            {
                "kind": "grpo",
                "rewards": [{"kind": "numeric"}],
                "rollout": {"num_generations": 8, "max_completion_length": 512},
                "epsilon": 0.2,
                "epsilon_high": 0.2,
                "average": "token",
                "scale_rewards": "rewards",
            },
        ),
        (
            SUMS | {"reward_funcs": "mine.good", "num_generations": 4, "normalize_advantages": True},
            {
                "kind": "rloo",
                "rewards": [{"kind": "exact"}],
                "rollout": {"num_generations": 4, "max_completion_length": 512},
                "epsilon": 0.2,
                "normalize": True,
                "kl": {"coefficient": 0.05, "estimator": "k1"},
            },
        ),
        (
            SUMS | {"missing_eos_penalty": 1.0, "beta": [0.2], "reward_model_path": "org/judge"},
            {
                "kind": "online_dpo",
                "rewards": [{"kind": "exact"}],
                "rollout": {"num_generations": 2, "max_completion_length": 64},
                "beta": 0.2,
            },
        ),
    ],
)
def test_objectives_of_trl(place: Path, options: dict[str, Any], wanted: dict[str, Any]) -> None:
    step, text = made(place, TRL | options)
    assert step["objective"] == wanted
    assert f"#   trainer: {wanted['kind']} -> steps.tune.objective.kind" in text


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (
            {"stage": "dpo", "dataset": "pairs", "pref_beta": 0.3, "pref_ftx": 0.1, "pref_loss": "sigmoid"},
            {"kind": "dpo", "max_length": 256, "loss_type": "sigmoid", "beta": 0.3, "rpo_alpha": 0.1},
        ),
        (
            {"stage": "dpo", "dataset": "turns", "pref_loss": "simpo"},
            {"kind": "simpo", "max_length": 256, "beta": 0.1, "gamma": 0.5},
        ),
        (
            {"stage": "dpo", "dataset": "pairs", "pref_loss": "orpo"},
            {"kind": "orpo", "max_length": 256, "weight": 0.1},
        ),
        (
            {"stage": "kto", "dataset": "marked", "kto_rejected_weight": 0.5},
            {"kind": "kto", "max_length": 256, "beta": 0.1, "undesirable_weight": 0.5, "label": "thumb"},
        ),
        ({"stage": "rm", "dataset": "pairs"}, {"kind": "reward", "max_length": 256}),
        (
            {"stage": "ppo", "dataset": "pairs", "reward_model": "saves/judge", "max_new_tokens": 64, "top_p": 0.9},
            {
                "kind": "ppo",
                "rewards": [{"kind": "exact"}],
                "rollout": {"num_generations": 1, "max_completion_length": 64},
                "kl": {"coefficient": 0.2, "estimator": "k1"},
            },
        ),
    ],
)
def test_objectives_of_llamafactory(place: Path, options: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert made(place, FACTORY | options)[0]["objective"] == wanted


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"rl": "dpo", "rl_beta": 0.3}, {"kind": "dpo", "max_length": 256, "beta": 0.3}),
        ({"rl": "ipo"}, {"kind": "dpo", "max_length": 256, "loss_type": "ipo", "beta": 0.1}),
        ({"rl": "orpo", "orpo_alpha": 0.2}, {"kind": "orpo", "max_length": 256, "weight": 0.2}),
        ({"reward_model": True}, {"kind": "reward", "max_length": 256}),
        (
            {"rl": "grpo", "trl": {"num_generations": 4, "max_completion_length": 32, "reward_funcs": ["mine.good"]}},
            {
                "kind": "grpo",
                "rewards": [{"kind": "exact"}],
                "rollout": {"num_generations": 4, "max_completion_length": 32},
                "epsilon": 0.2,
                "epsilon_high": 0.2,
                "average": "token",
            },
        ),
        (
            {"rl": "gdpo", "trl": {"num_generations": 4, "scale_rewards": True, "reward_funcs": ["mine.good"]}},
            {
                "kind": "grpo",
                "rewards": [{"kind": "exact"}],
                "rollout": {"num_generations": 4, "max_completion_length": 512},
                "epsilon": 0.2,
                "epsilon_high": 0.2,
                "average": "token",
                "scale_rewards": "rewards",
            },
        ),
    ],
)
def test_objectives_of_axolotl(place: Path, options: dict[str, Any], wanted: dict[str, Any]) -> None:
    told = {"path": "data/pairs.jsonl", "type": {"field_prompt": "prompt", "field_chosen": "chosen"}}
    step, text = made(place, AXOLOTL | {"datasets": [told]} | options)
    assert step["objective"] == wanted
    assert yaml.safe_load(text)["steps"]["data"]["source"]["answer"] == "chosen"
    assert step["batch_size"] == (2 if wanted["kind"] == "grpo" else 8)


def test_turns_that_two_answers_follow_are_read_as_such(place: Path) -> None:
    told = {
        "path": "data/turns.jsonl", "type": "chat_template.default", "field_messages": "conversations",
        "field_chosen": "chosen", "field_rejected": "rejected",
    }  # fmt: skip
    _, text = made(place, AXOLOTL | {"datasets": [told], "rl": "dpo"})
    told = yaml.safe_load(text)["steps"]["data"]["source"]
    (_, mapped), *_ = Source.parse(told).glance(place / "mine")
    (_, recognised), *_ = Source.parse({"kind": told["kind"], "path": told["path"]}).glance(place / "mine")
    assert [turn.content for turn in mapped.messages] == ["Ask 0?", "Good 0"]
    assert (mapped.messages, mapped.meta) == (recognised.messages, recognised.meta)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (PAIRS | {"beta": 0.1, "loss_type": "nca_pair"}, "loss_type: nca_pair: no counterpart: there is no such loss"),
        (PAIRS | {"loss_type": ["ipo", "bco_pair"]}, "loss_type.1: bco_pair: no counterpart: one loss is learnt"),
        (PAIRS | {"beta": 0.1, "loss_type": "hinge", "label_smoothing": 0.1}, "label_smoothing: 0.1: no counterpart"),
        (PAIRS | {"beta": 0.1, "max_prompt_length": 9}, "max_prompt_length: 9: no counterpart: `max_length` bounds"),
        (PAIRS | {"beta": 0.1, "precompute_ref_log_probs": True}, "precompute_ref_log_probs: True: no counterpart"),
        (SUMS | {"reward_funcs": ["my.own"], "temperature": 0.7}, "temperature: 0.7: no counterpart: answers are"),
        (SUMS | {"reward_funcs": ["my.own"]}, "reward_funcs: ['my.own']: no counterpart: code of another tool"),
        (SUMS | {"num_generations": 4, "lora_dropout": 0.2}, "lora_dropout: 0.2: no counterpart: what a model writes"),
        (PAIRS | {"beta": 0.1, "lora_dropout": 0.2}, "lora_dropout: 0.2: no counterpart: TRL's trainers learn"),
        (SUMS | {"num_generations": 4, "loss_type": "cispo"}, "loss_type: cispo: no counterpart: there is no such"),
        (PAIRS | {"beta": 0.1, "my_own": 3}, "my_own: 3: unknown to this importer"),
        (PAIRS | {"cpo_alpha": 0.1, "rpo_alpha": 1}, "rpo_alpha: 1: no counterpart: cpo_alpha says the same"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_listed(place: Path, options: dict[str, Any], said: str) -> None:
    _, text = made(place, TRL | options)
    assert f"#   {said}" in text
    for option in options:
        assert re.search(rf"^#   {option}[.:]", text, re.MULTILINE), option


def test_the_worse_answer_under_another_name_is_listed(place: Path) -> None:
    _, text = made(place, FACTORY | {"stage": "rm", "dataset": "other"})
    assert "columns.rejected: worse: no counterpart: the answer that was not preferred" in text


@pytest.mark.parametrize(
    ("options", "name", "trainer"),
    [
        ({}, "file", "sft"),
        ({"loss_type": "nll"}, "warm-sft-before-dpo", "sft"),
        ({"beta": 0.1}, "file", "dpo"),
        ({"beta": 0.1}, "my-orpo", "orpo"),
        ({}, "reward", "reward"),
        ({"beta": 0.1, "reward_funcs": ["x"]}, "file", "grpo"),
        ({"beta": 0.1, "reward_funcs": ["x"]}, "rloo", "rloo"),
        ({"reward_funcs": ["x"]}, "online-dpo", "online_dpo"),
        ({"undesirable_weight": 1.0}, "dpo", "kto"),
        ({"loss_type": "simpo", "cpo_alpha": 0.0}, "cpo", "simpo"),
    ],
)
def test_the_trainer_is_told_from_options_before_the_name(options: dict[str, Any], name: str, trainer: str) -> None:
    assert detect_trainer_objective(options, name) == trainer


def test_a_trainer_that_there_is_not_here_is_refused(place: Path) -> None:
    with pytest.raises(InputError, match="'ebft', which there is not here"):
        made(place, AXOLOTL | {"rl": "ebft", "datasets": [{"path": "data/pairs.jsonl"}]})


@pytest.mark.parametrize(
    "options",
    [
        TRL | PAIRS | {"learning_rate": "fast"},
        TRL | PAIRS | {"loss_type": ["ipo", "sft"], "loss_weights": ["x", 1]},
        TRL | SUMS | {"num_generations": "many"},
        TRL | SUMS | {"reward_funcs": ["my.own"], "reward_weights": ["much"]},
        AXOLOTL | {"rl": "grpo", "trl": [1], "datasets": [{"path": "data/sums.jsonl"}]},
        AXOLOTL | {"rl": "dpo", "datasets": [{"path": "data/pairs.jsonl", "type": {"field_chosen": 3}}]},
    ],
)
def test_a_value_of_another_kind_is_an_error_with_the_file(place: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="not what its tool wants") as caught:
        made(place, options)
    assert caught.value.where.file == str(place / "file.yaml")
