"""Advantages, losses and gradients of policies are those of TRL's trainers on the very answers that these drew."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.models.load import open_folder
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import build_packs
from luthier.tune.objective import REFERENCE
from luthier.tune.policy import OLD, WRITTEN
from models.architectures import Double
from policies import END, REGEX, Script, policy_of, rollout, written
from tests.oracles.freeze_policies import ONLINE, online
from tuning import TuneEnv, examples, make_env

pytest.importorskip("trl", reason="TRL is not installed: no comparison with its losses")
SAMPLES, PROMPTS, LONGEST = 4, 3, 8
GRPO: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": ({"average": "row"}, {"loss_type": "grpo"}),
    "dapo": ({"epsilon_high": 0.28}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    "dr_grpo": ({"average": "constant", "scale_rewards": "none"}, {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "batch": ({"average": "row", "scale_rewards": "batch"}, {"loss_type": "grpo", "scale_rewards": "batch"}),
    "gdpo": (
        {"average": "row", "scale_rewards": "rewards", "rewards": [REGEX, {**REGEX, "label": "other", "weight": 2.0}]},
        {"loss_type": "grpo", "multi_objective_aggregation": "normalize_then_sum", "reward_weights": [1.0, 2.0]},
    ),
    "gspo": ({"average": "row", "importance_sampling_level": "sequence"},
             {"loss_type": "grpo", "importance_sampling_level": "sequence"}),
    "kl": ({"average": "row", "kl": {"coefficient": 0.3}}, {"loss_type": "grpo", "beta": 0.3}),
    "biased": ({"average": "row", "kl": {"coefficient": 0.3, "unbiased": False}},
               {"loss_type": "grpo", "beta": 0.3, "use_bias_correction_kl": False}),
}  # fmt: skip
RLOO: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rloo": ({}, {"beta": 0.0}),
    "normalized": ({"normalize": True}, {"beta": 0.0, "normalize_advantages": True}),
    "kl": ({"kl": {"coefficient": 0.1, "estimator": "k1"}}, {"beta": 0.1}),
}


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def worth(completions: list[Any], **told: Any) -> list[float]:
    """A reward that differs from answer to answer."""
    return [float(sum(map(ord, str(one))) % 7) for one in completions]


def brevity(completions: list[Any], **told: Any) -> list[float]:
    """Another one, on another scale."""
    return [0.01 * (len(str(one)) % 5) for one in completions]


def trainer(env: TuneEnv, kind: str, folder: Path, settings: dict[str, Any]) -> Any:
    """TRL's trainer over the tiny model in float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other people's libraries say of one another
        from datasets import Dataset
        from transformers import AutoTokenizer
        from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

        config, made = (GRPOConfig, GRPOTrainer) if kind == "grpo" else (RLOOConfig, RLOOTrainer)
        questions = [one.messages[1].content for one in examples(PROMPTS)]
        arguments = config(
            output_dir=str(folder), use_cpu=True, report_to="none", bf16=False, gradient_checkpointing=False,
            num_generations=SAMPLES, per_device_train_batch_size=SAMPLES * PROMPTS, max_completion_length=LONGEST,
            seed=1, **settings,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(env.base.folder)
        model = open_folder(env.base.folder, torch.float64)
        return made(
            model=model, args=arguments, reward_funcs=[worth, brevity][: len(settings.get("reward_weights", "1"))],
            processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"prompt": text} for text in questions]),
        )  # fmt: skip


def theirs(made: Any, moved: float) -> tuple[dict[str, Any], float, dict[str, torch.Tensor]]:
    """What the trainer drew, its loss and its gradient, after the weights have moved a little."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Double():
            inputs = made._prepare_inputs(next(iter(made.get_train_dataloader())))
        if moved:
            inputs.setdefault("old_per_token_logps", old(made, inputs))
            shift(made.model, moved)
        made.model.zero_grad()
        vars(made)["current_gradient_accumulation_steps"] = 1
        with Double():
            loss = made._compute_loss(made.model, inputs)
        loss.backward()
    grads = {name: one.grad.clone() for name, one in made.model.named_parameters() if one.grad is not None}
    return inputs, float(loss.detach()), grads


def old(made: Any, inputs: Any) -> torch.Tensor:
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    with torch.no_grad(), Double():
        found: torch.Tensor = made._get_per_token_logps_and_entropies(
            made.model, ids, mask, inputs["completion_ids"].shape[1]
        )[0]
    return found


def shift(model: Any, by: float) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * torch.randn_like(parameter))


def script_of(made: Any, inputs: Any) -> Script:
    """The answers that the trainer drew, as ours draws them."""
    prompts, answers, rewards, also = [], [], [], []
    for at, (ids, mask) in enumerate(zip(inputs["prompt_ids"], inputs["prompt_mask"], strict=True)):
        said = inputs["completion_ids"][at].tolist()
        said = said[: said.index(END) + 1] if END in said else said
        if at % SAMPLES == 0:
            prompts.append(ids[mask.bool()].tolist())
            answers.append([])
            rewards.append([])
            also.append([])
        answers[-1].append(said)
        text = made.processing_class.decode(said, skip_special_tokens=True)
        rewards[-1] += worth([text])
        also[-1] += brevity([text])
    return Script(prompts, answers, rewards, parts=[rewards, also] if len(made.reward_funcs) > 1 else [])


@pytest.mark.parametrize("moved", [0.0, 0.05])
@pytest.mark.parametrize(("kind", "name"), [*(("grpo", one) for one in GRPO), *(("rloo", one) for one in RLOO)])
def test_loss_and_gradients_are_trls(env: TuneEnv, tmp_path: Path, kind: str, name: str, moved: float) -> None:
    ours, settings = (GRPO if kind == "grpo" else RLOO)[name]
    made = trainer(env, kind, tmp_path, settings)
    inputs, wanted, grads = theirs(made, moved)
    script = script_of(made, inputs)
    drawing = {**ours.get("rollout", {}), "max_completion_length": LONGEST}
    clip = {"epsilon_high": 0.2} if kind == "grpo" else {}
    policy = policy_of(kind, script, **{**clip, **ours, "correct": None, "rollout": drawing})
    model = open_folder(env.base.folder, torch.float64)
    with Double():
        script.written = written(model, script)
        drawn = rollout(policy, script, model).draw(0)
    rows = drawn.rows
    if moved:
        rows = [replace(row, token_values={**row.token_values, OLD: row.token_values[WRITTEN]}) for row in rows]
        shift(model, moved)
    loss = 0.0
    for pack in build_packs(rows, 200):
        with Double():
            logp = compute_pack_logprobs(model, pack)
        found = policy.loss(logp, pack, pack.token_values.get(REFERENCE)).total / drawn.denominator
        found.backward()
        loss += float(found.detach())
    assert loss == pytest.approx(wanted, abs=1e-6)
    for key, parameter in model.named_parameters():
        if key in grads:
            assert parameter.grad is not None
            assert float((parameter.grad - grads[key]).norm()) <= 1e-6 * max(1.0, float(grads[key].norm())), key
    assert any(float(grad.norm()) > 1e-3 for grad in grads.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("at", range(len(ONLINE)))
def test_pairs_of_a_policys_own_answers_are_trls_as_it_is_here(at: int) -> None:
    """`tests/tune/test_policies.py` holds losses and gradients to the file; here the installed TRL is held to it."""
    path = Path(__file__).parents[1] / "tune" / "policies.json"
    frozen = [
        case for case in json.loads(path.read_text(encoding="utf-8")) if case["objective"]["kind"] == "online_dpo"
    ]
    live = online(ONLINE[at])
    assert live["objective"] == frozen[at]["objective"]
    assert live["loss"] == pytest.approx(frozen[at]["loss"], abs=1e-9)
    for ours, theirs in zip(frozen[at]["gradient"], live["gradient"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-9)
