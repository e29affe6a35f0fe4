"""What every objective that learns from its own answers promises: rows from prompts, a pure loss that any split adds up
to, nothing from answers that are all alike, exactness on its own policy, learning, and exact resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from documented import undescribed
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.component import components_by_kind
from luthier.models.load import open_folder
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import TokenRow, build_packs
from luthier.tune.objective import REFERENCE, Objective
from luthier.tune.policy import ADVANTAGE, OLD, RETURN, WRITTEN, ActorCritic, PolicyLoss, PolicyObjective
from luthier.tune.rollout.rollout import EQUAL, UNLEARNT
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from policies import REGEX, Script, policy_of, rollout, written
from tuning import TuneEnv, examples, make_env, tune_and_resume

POLICIES = {kind: part for kind, part in components_by_kind(Objective).items() if part.draws}
KINDS = sorted(POLICIES)
SURROGATES = [kind for kind in KINDS if issubclass(POLICIES[kind], PolicyLoss)]
KL = {"coefficient": 0.2}
OTHERWISE: dict[tuple[str, str], Any] = {
    ("grpo", "scale_rewards"): "none",
    ("grpo", "average"): "row",
    ("grpo", "importance_sampling_level"): "sequence",
    ("grpo", "epsilon"): 0.01,
    ("grpo", "epsilon_high"): 0.01,
    ("rloo", "normalize"): True,
    ("rloo", "epsilon"): 0.01,
    ("reinforce++", "baseline"): "group",
    ("reinforce++", "epsilon"): 0.01,
    ("reinforce++", "epsilon_high"): 0.01,
    ("raft", "keep"): 2,
    ("raft", "min"): 5.0,
    ("ppo", "gamma"): 0.9,
    ("ppo", "gae_lambda"): 0.5,
    ("ppo", "whiten"): False,
    ("ppo", "epsilon"): 0.01,
    ("ppo", "epsilon_high"): 0.01,
    ("ppo", "dual_clip"): 1.1,
    ("ppo", "value_clip"): None,
    ("ppo", "value_weight"): 0.1,
    ("online_dpo", "loss_type"): "ipo",
    ("online_dpo", "beta"): 0.5,
    **{(kind, "kl"): KL for kind in SURROGATES},
    **{(kind, "correct"): None for kind in SURROGATES},
}
"""Another value for each field that decides the loss; what decides the drawing has tests of its own."""
ELSEWHERE = {"kind", "rewards", "rollout", "gold", "stop", "shown", "value_rate", "value_start"}
"""Fields that decide which answers are drawn, judged or shown (`tests/tune/rollout`), or where a critic begins and how
quickly it learns (`tests/tune/test_critic.py`)."""
CASES: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in KINDS), *((kind, {"kl": KL}) for kind in SURROGATES),
    *((kind, {"kl": {**KL, "estimator": "k1"}}) for kind in SURROGATES),
    ("online_dpo", {"loss_type": "ipo", "beta": 1.0}),
    ("ppo", {"whiten": False, "dual_clip": 1.2, "value_clip": None}),
    ("grpo", {"importance_sampling_level": "sequence", "average": "row"}),
    ("grpo", {"average": "constant", "scale_rewards": "none"}),
    ("grpo", {"scale_rewards": "batch", "kl": {**KL, "estimator": "k2"}}), ("reinforce++", {"baseline": "group"}),
    ("grpo", {"scale_rewards": "rewards"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def model(env: TuneEnv) -> Any:
    return open_folder(env.base.folder, torch.float64)


def moved(rows: list[TokenRow]) -> list[TokenRow]:
    """Rows of a model that has moved since: each token's old log-probability is another one."""
    return [
        replace(
            row,
            token_values={
                **row.token_values,
                OLD: [value + 0.3 * (-1) ** at for at, value in enumerate(row.token_values[WRITTEN])],
            },
        )
        for row in rows
    ]


def gradient(
    policy: PolicyObjective, model: Any, rows: list[TokenRow], tokens: int
) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    total = 0.0
    for pack in build_packs(rows, tokens):
        logp = compute_pack_logprobs(model, pack)
        kept = logp.detach().clone()
        loss = policy.loss(logp, pack, pack.token_values.get(REFERENCE)).total
        assert torch.equal(logp.detach(), kept)
        if isinstance(policy, ActorCritic):
            loss = loss + policy.value_loss(pack.token_values[RETURN].to(logp) + 0.1 * logp, pack).total
        loss.backward()
        total += float(loss.detach())
    return total, [one.grad.clone() for one in model.parameters() if one.grad is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_documented(kind: str) -> None:
    policy = POLICIES[kind]
    assert policy.summary()
    assert undescribed(policy) == []


@pytest.mark.parametrize("kind", KINDS)
def test_examples_are_prompts_in_order(kind: str, env: TuneEnv) -> None:
    policy = policy_of(kind, Script.drawn(), rollout={"max_prompt_length": 80})
    text, given = ChatTokenizer.load(env.base.folder), examples(8)
    dataset = policy.build_training_examples(given, text)
    assert [features.id for features in dataset] == [example.id for example in given]
    for example, features in zip(given, dataset, strict=True):
        if features.rows:
            assert list(features.rows[0].ids) == text.prompt(example.messages[:-1])
        else:
            assert features.nothing == "its prompt is longer than 80 tokens"
    assert {bool(features.rows) for features in dataset} == {True, False}


@pytest.mark.parametrize(("kind", "extra"), CASES)
def test_the_loss_is_pure_and_any_split_adds_up(kind: str, extra: dict[str, Any], model: Any) -> None:
    script = Script.drawn()
    script.written = written(model, script)
    policy = policy_of(kind, script, **extra)
    rows = moved(rollout(policy, script, model).draw(0).rows)
    assert len(build_packs(rows, 60)) > 1
    found, wanted = gradient(policy, model, rows, 60), gradient(policy, model, rows, 1 << 14)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)  # norms are in fp32


@pytest.mark.parametrize(("kind", "extra"), CASES)
def test_the_shares_of_examples_add_up(kind: str, extra: dict[str, Any], model: Any) -> None:
    script = Script.drawn()
    script.written = written(model, script)
    policy = policy_of(kind, script, **extra)
    (pack,) = build_packs(moved(rollout(policy, script, model).draw(0).rows), 1 << 14)
    loss = policy.loss(compute_pack_logprobs(model, pack), pack, pack.token_values.get(REFERENCE))
    torch.testing.assert_close(loss.by_example(pack).sum(), loss.total)
    assert not any(value.requires_grad for value in loss.measures.values())


@pytest.mark.parametrize("kind", SURROGATES)
def test_on_its_own_policy_the_gradient_is_that_of_the_weighted_log_likelihood(kind: str, model: Any) -> None:
    """The ratio is 1 in every bit: nothing is clipped, and the surrogate is the advantage times the log-probability, of
    a token or, where the ratio is that of an answer, of the whole of it."""
    script = Script.drawn()
    policy = policy_of(kind, script, correct=None)
    rows = rollout(policy, script, model).draw(0).rows
    for pack in build_packs(rows, 1 << 14):
        policy.loss(compute_pack_logprobs(model, pack), pack, None).total.backward()
    found = [one.grad.clone() for one in model.parameters() if one.grad is not None]
    model.zero_grad()
    for pack in build_packs(rows, 1 << 14):
        logp = compute_pack_logprobs(model, pack)
        assert not policy.loss(logp, pack, None).measures["clipped"].any()
        whole = pack.weights.new_zeros(pack.rows).index_add(0, pack.path, pack.weights)[pack.path]
        weights = whole if kind == "rloo" else pack.weights
        (-(weights * pack.token_values[ADVANTAGE] * logp).sum()).backward()
    wanted = [one.grad for one in model.parameters() if one.grad is not None]
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("worth", [1.0, 0.1, 0.45])  # the sum of seven times 0.1 is not 0.7
@pytest.mark.parametrize("kind", KINDS)
def test_answers_that_are_all_alike_teach_nothing(kind: str, worth: float, model: Any) -> None:
    script = Script.drawn(samples=7)
    script.rewards = [[worth] * 7 for _ in script.rewards]
    drawn = rollout(policy_of(kind, script), script, model).draw(0)
    assert (drawn.rows, drawn.nothing) == ([], EQUAL)
    assert drawn.measures["equal_prompts"] == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_answers_that_are_left_out_count_for_nobody(kind: str, model: Any) -> None:
    whole, holed = Script.drawn(2, 4), Script.drawn(2, 4)
    holed.rewards[0][1] = float("nan")
    policy = policy_of(kind, whole)
    rows = rollout(policy, holed, model).draw(0)
    assert rows.measures["reward_faults"] == 1.0
    missing = [*whole.prompts[0], *whole.answers[0][1]]
    assert missing not in [list(row.ids) for row in rows.rows]
    assert all(torch.tensor(row.token_values[ADVANTAGE]).isfinite().all() for row in rows.rows)


def test_answers_with_equal_sums_are_told_apart_where_each_reward_is_compared_by_itself(model: Any) -> None:
    """One reward's gain is another's loss: their sums teach nothing, and by weight the second goes before the first."""
    script = Script.drawn(1, 4)
    script.rewards = [[1.0] * 4]
    script.parts = [[[1.0, 0.0, 1.0, 0.0]], [[0.0, 0.1, 0.0, 0.1]]]
    rewards = [REGEX, {**REGEX, "label": "other", "weight": 3.0}]
    whole, apart = (
        rollout(policy_of("grpo", script, rewards=rewards, scale_rewards=scale), script, model).draw(0)
        for scale in ("group", "rewards")
    )
    assert (len(whole.rows), whole.measures["equal_prompts"]) == (0, 1.0)
    assert (len(apart.rows), apart.measures["equal_prompts"]) == (4, 0.0)
    by_answer = {tuple(row.ids[len(script.prompts[0]) :]): row.token_values[ADVANTAGE][0] for row in apart.rows}
    found = [by_answer[tuple(ids)] for ids in script.answers[0]]
    assert found[0] == found[2] < 0 < found[1] == found[3]
    script.rewards[0][3] = float("nan")  # left out, for one of its rewards failed
    left = rollout(policy_of("grpo", script, rewards=rewards, scale_rewards="rewards"), script, model).draw(0).rows
    assert len(left) == 3
    assert all(torch.tensor(row.token_values[ADVANTAGE]).isfinite().all() for row in left)


def test_truncated_answers_are_not_learnt_where_they_are_masked(model: Any) -> None:
    script = Script.drawn()
    script.answers[0][0][-1] = 7  # it does not end
    kept, masked = (
        rollout(policy_of("grpo", script, average="row", rollout={"truncated": how}), script, model).draw(0)
        for how in ("learn", "mask")
    )
    assert len(kept.rows) == len(masked.rows) + 1
    assert kept.denominator == masked.denominator == 12.0
    assert kept.measures["truncated"] == masked.measures["truncated"] == 1 / 12
    script.answers = [[[5, 6]] * 4 for _ in script.answers]
    drawn = rollout(policy_of("grpo", script, rollout={"truncated": "mask"}), script, model).draw(0)
    assert (drawn.rows, drawn.nothing) == ([], UNLEARNT)
    assert drawn.measures["equal_prompts"] < 1


def test_the_longest_answer_has_all_of_its_turns() -> None:
    rows = [TokenRow([5, 6], [0.0, 1.0])] * 3
    turns = {"environment": {"kind": "calculator", "turns": 4}}
    assert policy_of("grpo", Script.drawn(), average="constant", rollout=turns).denominator(rows) == 3 * 4 * 6


def elsewhere(tokens: int) -> dict[str, list[float]]:
    """What a row tells of so many tokens when it was written, and judged at first, by quite another model."""
    return {OLD: ([-2.0, -8.0] * tokens)[:tokens], REFERENCE: [-3.0] * tokens}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in KINDS for name in POLICIES[kind].model_fields if name not in ELSEWHERE]
)
def test_every_field_changes_the_loss(kind: str, name: str, model: Any) -> None:
    assert (kind, name) in OTHERWISE, f"add another value of {kind}.{name} to OTHERWISE"
    script = Script.drawn()
    beside = {"importance_sampling_level": {"average": "row"}}.get(name, {})
    losses = []
    for fields in (beside, {**beside, name: OTHERWISE[kind, name]}):
        policy = policy_of(kind, script, **fields)
        drawn = rollout(policy, script, model).draw(0)
        shift = [replace(row, token_values={**row.token_values, **elsewhere(len(row.targets))}) for row in drawn.rows]
        losses.append(gradient(policy, model, shift, 1 << 14)[0] / drawn.denominator if shift else 0.0)
    assert losses[0] != losses[1]


@pytest.mark.matrix("ppo*", "grpo*")  # tests/tune/rollout and tests/tune/test_critic.py have the rest
@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] * bool(case[1]))
        for case in CASES
        if not {"kl", "loss_type"} & case[1].keys()
    ],
)  # the quick suite has each policy as it is by default, and above the losses of all cases
def test_it_learns_and_resumes_to_the_same_bytes(kind: str, extra: dict[str, Any], tmp_path: Path) -> None:
    extra = {"keep": 3, **extra} if kind == "raft" else extra
    objective = {
        "kind": kind,
        "rewards": [REGEX],
        "rollout": {"num_generations": 6, "max_completion_length": 4},
        **extra,
    }
    step = Tune(data="data", objective=objective, technique=Lora(r=4), batch_size=4, max_train_samples=32, epochs=2.0,
                learning_rate=1e-2, dtype="float32", save_steps=4)  # fmt: skip
    env = make_env(tmp_path)
    whole, again = tune_and_resume(env, step, before=13)
    for name in ("log.jsonl", "adapter/adapter_model.safetensors", "training_examples.parquet"):
        assert again[name] == whole[name], name
    made = env.store.open(env.tune_digest(step)).folder
    rewards = [json.loads(line)["reward"] for line in (made / "log.jsonl").read_text().splitlines()]
    assert sum(rewards[-8:]) > sum(rewards[:8])


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"technique": {"kind": "lora", "lora_dropout": 0.1}}, "learns without dropout"),
        ({"loss_spike": 5.0}, "leave loss_spike out"),
        ({"objective": {"kind": "grpo", "rewards": [REGEX], "gold": [REGEX]}}, "gold needs `validation`"),
        ({"objective": {"kind": "grpo", "rewards": [REGEX], "stop": {"hacking": 2}}}, "stop.hacking needs"),
        ({"objective": {"kind": "grpo", "rewards": ["model"]}}, "asks a `reward_model`"),
        (
            {
                "objective": {
                    "kind": "grpo",
                    "rewards": [REGEX],
                    "scale_rewards": "rewards",
                    "kl": {**KL, "estimator": "k1"},
                }
            },
            "cannot be taken off the reward",
        ),
        (
            {
                "objective": {
                    "kind": "grpo",
                    "rewards": [REGEX],
                    "scale_rewards": "rewards",
                    "rollout": {"truncated": -1},
                }
            },
            "what each reward says of it, no number",
        ),
        *(
            (
                {"objective": {"rewards": [REGEX], "rollout": {"num_generations": 1}, **one}},
                "at least 2 `num_generations`",
            )
            for one in (
                {"kind": "grpo"},
                {"kind": "rloo"},
                {"kind": "raft"},
                {"kind": "reinforce++", "baseline": "group"},
            )
        ),
        *(
            ({"objective": {"rewards": [REGEX], "rollout": {"redraw": 1}, **one}}, "teach as others do, and `redraw`")
            for one in ({"kind": "ppo"}, {"kind": "reinforce++"}, {"kind": "raft", "min": 1.0})
        ),
        ({"reward_model": "judge"}, "nothing asks a reward_model"),
        ({"gold_model": "judge"}, "nothing asks a gold_model"),
        (
            {"objective": {"kind": "grpo", "rewards": [REGEX], "gold": ["model"]}, "validation": {}},
            "asks a `reward_mod",
        ),
        (
            {
                "reward_model": "judge",
                "gold_model": "other",
                "validation": {},
                "objective": {"kind": "grpo", "rewards": [REGEX], "gold": ["model"]},
            },
            "nothing asks a reward_model",
        ),
        ({"validation": {"metric": "accuracy"}}, "judged by its rewards, or by `gold`"),
        ({"objective": {"kind": "grpo", "rewards": [REGEX, REGEX]}}, "two rewards are called 'regex'"),
    ],
)
def test_settings_that_cannot_hold_together_are_refused(settings: dict[str, Any], why: str) -> None:
    usual: dict[str, Any] = {"data": "data", "objective": {"kind": "grpo", "rewards": [REGEX]}}
    with pytest.raises(ValidationError, match=why):
        Tune(**{**usual, **settings})


@pytest.mark.parametrize(
    "objective",
    [
        {"kind": "grpo"},
        {"kind": "rloo"},
        {"kind": "raft"},
        {"kind": "online_dpo"},
        {"kind": "reinforce++", "baseline": "group"},
    ],
    ids=lambda objective: str(objective["kind"]),
)
def test_prompts_are_redrawn_where_equal_answers_teach_nothing(objective: dict[str, Any]) -> None:
    Tune(data="data", objective={"rewards": [REGEX], "rollout": {"redraw": 1}, **objective})
