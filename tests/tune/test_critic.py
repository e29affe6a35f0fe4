"""The critic: an adapter and a head over the policy's own base, which learns, and may begin with a reward model's."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from luthier.core.artifact import Artifact
from luthier.models.generation.cpu_decoder import BASE, activate_adapter
from luthier.models.kernels.lora import install_fused_lora
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import TokenRow, build_pack
from luthier.tune.eva import initialize_with_eva
from luthier.tune.objectives.ppo import Ppo
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from luthier.tune.training.critic import Critic, add_critic, is_critic_parameter
from policies import REGEX
from tuning import TuneEnv, adapted, finish, interrupted, make_env, pairs

ROLLOUT = {"num_generations": 4, "max_completion_length": 4}
QUICK: dict[str, Any] = {"technique": Lora(r=4), "batch_size": 8, "learning_rate": 1e-2, "dtype": "float32"}
ROWS = [
    TokenRow([5, 9, 4, 7, 11, 2], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]),
    TokenRow([5, 9, 4, 8, 2], [0.0, 0.0, 0.0, 1.0, 1.0]),
]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"), pairs(24))


@pytest.fixture(scope="module")
def judge(env: TuneEnv) -> Artifact:
    """A reward model over the base that is tuned, of another rank than the policy."""
    return env.tune(Tune(data="data", objective="reward", epochs=3, **{**QUICK, "technique": Lora(r=2)}))


def step(**settings: Any) -> Tune:
    objective = {"kind": "ppo", "rewards": [REGEX], "rollout": ROLLOUT, **settings.pop("objective", {})}
    return Tune(**{"data": "data", **QUICK, "max_train_samples": 16, "objective": objective, **settings})


def judged(env: TuneEnv, made: Tune, judge: Artifact) -> Artifact:
    work = env.work(made)
    made.make(replace(work, inputs={**work.inputs, "reward_model": judge}))
    return finish(env.store, env.tune_digest(made), "tune", "model", {"data": env.data.digest})


def log(artifact: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact.folder / "log.jsonl").read_text().splitlines()]


def test_policy_and_critic_share_one_base_and_do_not_disturb_one_another(env: TuneEnv) -> None:
    """With the joint products of training as with PEFT's own, each speaks with its own adapter, and learns alone."""
    model = adapted(env, Lora(r=4))
    before = {name: one.data_ptr() for name, one in model.named_parameters() if not one.requires_grad}
    alone = compute_pack_logprobs(model, build_pack(ROWS)).detach()
    add_critic(model, seed=1)
    assert {name: one.data_ptr() for name, one in model.named_parameters() if name in before} == before
    critic = Critic(model, lambda values, given: Ppo(rewards=[REGEX]).value_loss(values, given))  # type: ignore[list-item]
    assert critic.read(ROWS, 1 << 12) == [[0.0] * 3, [0.0] * 2]
    with torch.no_grad():
        for name, one in model.named_parameters():
            if is_critic_parameter(name) and ("lora_B" in name or "head" in name):
                one.normal_(std=0.1)
    plain = critic.read(ROWS, 1 << 12)
    install_fused_lora(model)
    torch.testing.assert_close(compute_pack_logprobs(model, build_pack(ROWS)), alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(critic.read(ROWS, 1 << 12), plain, atol=1e-4, rtol=1e-4)
    compute_pack_logprobs(model, build_pack(ROWS)).sum().backward()
    assert not any(is_critic_parameter(name) for name in moved(model))
    told = [
        replace(row, token_values={name: [0.5] * len(row.targets) for name in ("return", "value", "share")})
        for row in ROWS
    ]
    model.zero_grad()
    critic.loss(build_pack(told)).total.backward()
    assert moved(model)
    assert all(is_critic_parameter(name) for name in moved(model))


def test_a_look_at_the_base_freezes_no_critic(env: TuneEnv) -> None:
    model = adapted(env, Lora(r=2))
    add_critic(model, seed=1)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any(is_critic_parameter(name) and "lora_A" in name for name in trained)
    initialize_with_eva(model, iter([build_pack(ROWS)]), 2)
    with activate_adapter(model, BASE):
        compute_pack_logprobs(model, build_pack(ROWS))
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained


def moved(model: Any) -> list[str]:
    return [name for name, one in model.named_parameters() if one.grad is not None and one.grad.any()]


@pytest.mark.slow
def test_the_critic_learns_what_answers_are_worth(env: TuneEnv) -> None:
    made = env.tune(step(epochs=8.0, objective={"value_clip": None}))
    told = log(made)
    first, last = (sum(line["value_loss"] for line in some) for some in (told[:4], told[-4:]))
    assert last < first
    files = {entry.path for entry in made.manifest.files}
    assert {"adapter/adapter_model.safetensors", "adapter/adapter_config.json"} < files
    assert not any("value" in path for path in files)


@pytest.mark.parametrize("technique", ["lora", "qlora"])
def test_only_the_policys_adapter_is_saved(env: TuneEnv, technique: str) -> None:
    made = env.tune(step(technique={"kind": technique, "r": 4}))
    names = load_file(made.folder / "adapter/adapter_model.safetensors")
    assert names
    assert not any("value" in name for name in names)


def test_it_begins_with_the_reward_models_adapter_and_head(env: TuneEnv, judge: Artifact) -> None:
    """The value before the last token of an answer is then what the reward model says of the text up to there."""
    from luthier.models.load import open_model
    from luthier.tune.training.reference_logprobs import compute_row_logprobs

    model = adapted(env, Lora(r=4))
    add_critic(model, 1, judge.folder / "adapter")
    critic = Critic(model, lambda values, given: Ppo(rewards=[REGEX]).value_loss(values, given))  # type: ignore[list-item]
    asked = [TokenRow([*row.ids[:at], 0], [0.0] * at + [1.0]) for row in ROWS for at in row.targets]
    wanted = [values[0] for values in compute_row_logprobs(open_model(judge, "float32"), asked, 1 << 12)]
    found = [value for values in critic.read(ROWS, 1 << 12) for value in values]
    assert len(set(found)) > 1
    assert found == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("start", "technique", "says"),
    [
        ("auto", Lora(r=4), "it begins with the reward model's adapter and head"),
        ("zero", Lora(r=4), "it begins at zero: as asked for"),
        ("auto", Lora(r=4, init_lora_weights="olora"), "at zero: the policy's own start changes the base"),
    ],
)
def test_it_is_said_where_it_begins(env: TuneEnv, judge: Artifact, start: str, technique: Lora, says: str) -> None:
    objective = {"rewards": ["model"], "value_start": start}
    made = step(objective=objective, technique=technique, reward_model="judge", max_train_samples=8)
    judged(env, made, judge)
    assert any(says in text for text in env.said("note"))


def test_a_reward_model_of_another_base_is_no_start(env: TuneEnv, judge: Artifact) -> None:
    other = env.tune(Tune(data="data", objective="sft", **QUICK))
    from luthier.models.load import open_folder
    from luthier.tune.training.critic import find_critic_start

    model = Lora(r=4).adapt(open_folder(env.base.folder, torch.float32), 1)
    assert find_critic_start(judge, env.base, model)[0] is not None
    assert find_critic_start(judge, other, model) == (None, "the reward model stands on another model")
    assert find_critic_start(None, env.base, model) == (None, "there is no reward model")


def test_a_critic_has_a_rate_of_its_own(env: TuneEnv) -> None:
    """At its first step Adam moves every number by the rate: the critic's by so many times more."""
    from luthier.tune.run import TrainingRun

    made = step(objective={"value_rate": 8.0}, technique=Lora(r=4, loraplus_lr_ratio=2.0))
    tuning = TrainingRun(made, Lora(r=4, loraplus_lr_ratio=2.0), env.work(made))
    rates = [tuning._rate_of(f"x.{name}.weight") for name in ("lora_A.default", "lora_B.default", "lora_A.value")]
    assert rates == [1.0, 2.0, 8.0]
    assert tuning._rate_of("value_head.weight") == 8.0


def test_a_critic_needs_a_low_rank_adapter() -> None:
    with pytest.raises(ValidationError, match="tune by lora or qlora, or take an objective without one"):
        step(technique={"kind": "full"})


def test_killed_in_the_middle_of_a_phase_policy_and_critic_end_in_the_same_bytes(env: TuneEnv) -> None:
    """The second of two steps that learn from answers drawn at once draws them, and asks the critic, again."""
    drawn = {**ROLLOUT, "steps_per_generation": 2}
    made = step(objective={"rollout": drawn, "kl": {"coefficient": 0.05, "estimator": "k1", "target": 0.01}},
                max_train_samples=24, batch_size=4, save_steps=1)  # fmt: skip
    whole = {entry.path: entry.digest for entry in env.tune(made).manifest.files}
    env.store.remove(env.tune_digest(made))
    interrupted(env, made, before=3)
    again = env.tune(made)
    assert {entry.path: entry.digest for entry in again.manifest.files} == whole
    told = log(again)
    assert len(told) == 6
    assert told[0]["clipped"] == 0.0
    assert len({line["kl_coefficient"] for line in told}) > 1
