"""Writes `tests/tune/policies.json`: what TRL 1.16 and verl 0.9.1 make of the same answers, losses and gradients.

    python tests/oracles/freeze_policies.py VERL-SOURCES

TRL must be installed; of verl (`pip download verl==0.9.1 --no-deps`, unpacked) only the functions of PPO are read.
"""

from __future__ import annotations

import ast
import json
import sys
import warnings
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import torch

LENGTHS = [[3, 1, 4], [2, 4, 3]]
REWARDS = [[1.0, 0.0, 0.5], [0.25, 1.0, 0.25]]
LONGEST = 4
MASKED = [0, 5]
"""Answers that the limit cut off, where those are not learnt."""
MASK = {"truncated": "mask"}
GRPO: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"average": "row", "epsilon_high": 0.2}, {"loss_type": "grpo"}),
    ({}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    ({"average": "constant", "scale_rewards": "none", "epsilon_high": 0.2}, {"loss_type": "dr_grpo", "scale": "none"}),
    ({"average": "row", "scale_rewards": "batch", "epsilon_high": 0.2}, {"loss_type": "grpo", "scale": "batch"}),
    (
        {"average": "row", "importance_sampling_level": "sequence", "epsilon_high": 0.2},
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    ),
    (
        {"average": "row", "epsilon_high": 0.2, "kl": {"coefficient": 0.3}},
        {"loss_type": "grpo", "beta": 0.3, "unbias": 1},
    ),
    (
        {"average": "row", "epsilon_high": 0.2, "kl": {"coefficient": 0.3, "unbiased": False}},
        {"loss_type": "grpo", "beta": 0.3},
    ),
    (
        {"average": "row", "epsilon_high": 0.2, "correct": 1.2, "kl": {"coefficient": 0.3}},
        {"loss_type": "grpo", "beta": 0.3, "unbias": 1, "correct": 1.2},
    ),
    ({"average": "row", "epsilon_high": 0.2, "rollout": MASK}, {"loss_type": "grpo", "masked": MASKED}),
    ({"rollout": MASK}, {"loss_type": "dapo", "epsilon_high": 0.28, "masked": MASKED}),
    (
        {"average": "constant", "scale_rewards": "none", "epsilon_high": 0.2, "rollout": MASK},
        {"loss_type": "dr_grpo", "scale": "none", "masked": MASKED},
    ),
]
RLOO: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}), ({"normalize": True}, {"normalize": True}),
    ({"kl": {"coefficient": 0.1, "estimator": "k1"}}, {"beta": 0.1}),
]  # fmt: skip
PPO: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"dual_clip": 3.0}, {}),
    ({"dual_clip": 1.05, "epsilon_high": 0.28}, {"clip_ratio_c": 1.05, "clip_ratio_high": 0.28}),
    ({"dual_clip": 3.0, "gamma": 0.9, "gae_lambda": 0.5, "kl": {"coefficient": 0.2, "estimator": "k1"}},
     {"gamma": 0.9, "lam": 0.5, "beta": 0.2}),
    ({"dual_clip": 3.0, "correct": 1.2}, {"correct": 1.2}),
]  # fmt: skip
REINFORCE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}), ({"baseline": "group", "epsilon_high": 0.28}, {"clip_ratio_high": 0.28}),
    ({"kl": {"coefficient": 0.2, "estimator": "k1"}}, {"beta": 0.2}),
    ({"kl": {"coefficient": 0.3, "estimator": "k2", "unbiased": False}}, {"penalty": "k2"}),
    ({"kl": {"coefficient": 0.3, "estimator": "k3", "unbiased": False}}, {"penalty": "k3"}),
]  # fmt: skip
ONLINE: list[dict[str, Any]] = [{}, {"beta": 0.5}, {"loss_type": "ipo", "beta": 0.2}]


def main() -> None:
    """All cases, one after another."""
    warnings.simplefilter("ignore")
    cases = [grpo(*case) for case in GRPO] + [rloo(*case) for case in RLOO]
    verl = _verl(Path(sys.argv[1]))
    cases += [ppo(*case, verl) for case in PPO] + [reinforce(*case, verl) for case in REINFORCE]
    cases += [online(case) for case in ONLINE]
    path = Path(__file__).parents[1] / "tune" / "policies.json"
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n", encoding="utf-8")


class Drawn:
    """Log-probabilities of answers to some prompts, padded, and what else is known of them."""

    def __init__(self, seed: int, samples: int | None = None) -> None:
        chance = numpy.random.Generator(numpy.random.PCG64(seed))
        lengths = [length for some in LENGTHS for length in some[:samples]]
        self.lengths, shape = lengths, (len(lengths), LONGEST)
        self.rewards = torch.tensor([some[:samples] for some in REWARDS], dtype=torch.float64)
        self.mask = torch.tensor([[float(at < length) for at in range(LONGEST)] for length in lengths]).double()
        logp, old, reference, values, vpreds, apart = (
            torch.tensor(chance.normal(at, by, shape)).round(decimals=4)
            for at, by in ((-1.5, 0.2), (-1.5, 0.2), (-1.5, 0.2), (0.3, 0.3), (0.3, 0.3), (0.0, 0.3))
        )
        self.written = (old + apart).round(decimals=4)
        self.logp, self.old, self.reference, self.values, self.vpreds = logp, old, reference, values, vpreds
        self.logp.requires_grad_()
        self.vpreds.requires_grad_()

    def case(self, kind: str, fields: dict[str, Any], loss: torch.Tensor, peer: str, **more: Any) -> dict[str, Any]:
        """What stands in the file."""
        loss.backward()
        assert self.logp.grad is not None
        told = {"logp": self.logp, "old": self.old, "reference": self.reference, "gradient": self.logp.grad, **more}
        rows = {name: self.rows(value) for name, value in told.items() if isinstance(value, torch.Tensor)}
        plain = {name: value for name, value in more.items() if not isinstance(value, torch.Tensor)}
        return {"objective": {"kind": kind, **fields}, "peer": peer, "rewards": self.rewards.tolist(), **rows, **plain,
                "loss": float(loss.detach())}  # fmt: skip

    def rows(self, table: torch.Tensor) -> list[list[float]]:
        """A padded table as rows of the answers' own lengths."""
        return [row[:length] for row, length in zip(table.tolist(), self.lengths, strict=True)]


def _trainer(**settings: Any) -> SimpleNamespace:
    """What TRL's losses ask of their trainer."""

    def same(value: Any, **_: Any) -> Any:
        return value

    metrics: Any = {"train": _Heard()}
    accelerator = SimpleNamespace(reduce=same, gather=same, gather_for_metrics=same, num_processes=1)
    usual = {
        "model": SimpleNamespace(training=True), "accelerator": accelerator, "_metrics": metrics, "beta": 0.0,
        "epsilon_low": 0.2, "epsilon_high": 0.2, "aux_loss_enabled": False, "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None, "importance_sampling_level": "token", "use_vllm": False,
        "_entropy_bonus_enabled": False, "current_gradient_accumulation_steps": 1, "max_completion_length": LONGEST,
    }  # fmt: skip
    return SimpleNamespace(**{**usual, **settings})


class _Heard(dict[str, Any]):
    """Takes in any figure."""

    def __missing__(self, name: str) -> list[Any]:
        return []


def _asked(made: Any, trainer: SimpleNamespace, drawn: Drawn, **inputs: Any) -> torch.Tensor:
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (drawn.logp, drawn.logp.detach(), None)
    ids = torch.zeros(drawn.logp.shape, dtype=torch.int64)
    batch = {"prompt_ids": ids, "prompt_mask": ids, "completion_ids": ids, "completion_mask": drawn.mask, **inputs}
    loss: torch.Tensor = made._compute_loss(trainer, None, batch)
    return loss


def grpo(fields: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """GRPO's variants."""
    from trl import GRPOTrainer

    drawn, settings = Drawn(1), dict(theirs)
    scale, unbias = settings.pop("scale", "group"), bool(settings.pop("unbias", 0))
    most, masked = settings.pop("correct", None), settings.pop("masked", [])
    drawn.mask[masked] = 0
    advantages = drawn.rewards - drawn.rewards.mean(1, keepdim=True)
    if scale != "none":
        advantages = advantages / (
            (drawn.rewards.std() if scale == "batch" else drawn.rewards.std(1, keepdim=True)) + 1e-4
        )
    args = SimpleNamespace(use_bias_correction_kl=unbias, delta=None, steps_per_generation=1)
    told = {
        "advantages": advantages.flatten(),
        "old_per_token_logps": drawn.old,
        "ref_per_token_logps": drawn.reference,
    }
    if most is not None:
        settings |= {"use_vllm": True, "vllm_importance_sampling_correction": True}
        told["importance_sampling_ratio"] = _truncated(drawn, most)
    loss = _asked(GRPOTrainer, _trainer(args=args, **settings), drawn, num_items_in_batch=drawn.mask.sum(), **told)
    more = {"written": drawn.written} if most is not None else {"masked": masked} if masked else {}
    return drawn.case("grpo", fields, loss, "trl 1.16", **more)


def _truncated(drawn: Drawn, most: float) -> torch.Tensor:
    """How TRL (`token_truncate`) and verl (`rollout_is: token`) weigh tokens that another engine wrote."""
    return torch.exp((drawn.old - drawn.written) * drawn.mask).clamp(max=most)


def rloo(fields: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """RLOO, with the cost of divergence in the reward."""
    from trl import RLOOTrainer

    drawn = Drawn(2)
    apart = ((drawn.old - drawn.reference) * drawn.mask).sum(1).view_as(drawn.rewards)
    rewards = drawn.rewards - theirs.get("beta", 0.0) * apart
    advantages = rewards - (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    if theirs.get("normalize"):
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-4)
    told = {"advantages": advantages.flatten(), "old_logps": (drawn.old * drawn.mask).sum(1)}
    return drawn.case("rloo", fields, _asked(RLOOTrainer, _trainer(), drawn, **told), "trl 1.16")


def ppo(fields: dict[str, Any], theirs: dict[str, Any], verl: Any) -> dict[str, Any]:
    """PPO: advantages, the policy's loss and the critic's."""
    drawn = Drawn(3)
    mask = drawn.mask
    rewards = -theirs.get("beta", 0.0) * (drawn.old - drawn.reference) * mask
    for at, length in enumerate(drawn.lengths):
        rewards[at, length - 1] += drawn.rewards.flatten()[at]
    gamma, lam = theirs.get("gamma", 1.0), theirs.get("lam", 0.95)
    advantages, returns = verl.compute_gae_advantage_return(rewards, drawn.values, mask, gamma, lam)
    loss = _vanilla(verl, drawn, advantages, theirs)
    own, _ = verl.compute_value_loss(drawn.vpreds, returns, drawn.values, mask, 0.2)
    own.backward()
    more = {"values": drawn.values, "vpreds": drawn.vpreds, "returns": returns, "advantages": advantages,
            "value_gradient": drawn.vpreds.grad, "value_loss": float(own.detach())}  # fmt: skip
    more |= {"written": drawn.written} if "correct" in theirs else {}
    return drawn.case("ppo", fields, loss, "verl 0.9.1", **more)


def _vanilla(verl: Any, drawn: Drawn, advantages: torch.Tensor, theirs: dict[str, Any]) -> torch.Tensor:
    """verl's clipped loss, a mean over tokens."""
    config = _Config(
        clip_ratio=0.2, clip_ratio_low=None, clip_ratio_high=theirs.get("clip_ratio_high"),
        clip_ratio_c=theirs.get("clip_ratio_c", 3.0), global_batch_info={},
    )  # fmt: skip
    weights = _truncated(drawn, theirs["correct"]) if "correct" in theirs else None
    loss: torch.Tensor = verl.compute_policy_loss_vanilla(
        drawn.old, drawn.logp, advantages, drawn.mask, config=config, rollout_is_weights=weights
    )[0]
    return loss


def reinforce(fields: dict[str, Any], theirs: dict[str, Any], verl: Any) -> dict[str, Any]:
    """REINFORCE++, with and without the baseline, and the divergences of verl's loss and reward."""
    drawn = Drawn(6)
    mask = drawn.mask
    rewards = -theirs.get("beta", 0.0) * verl.kl_penalty(drawn.old, drawn.reference, "k1") * mask
    for at, length in enumerate(drawn.lengths):
        rewards[at, length - 1] += drawn.rewards.flatten()[at]
    if fields.get("baseline") == "group":
        groups = [at for at, some in enumerate(LENGTHS) for _ in some]
        advantages, _ = verl.compute_reinforce_plus_plus_baseline_outcome_advantage(rewards, mask, groups)
    else:
        config = SimpleNamespace(gamma=1.0)
        advantages, _ = verl.compute_reinforce_plus_plus_outcome_advantage(rewards, mask, config=config)
    loss = _vanilla(verl, drawn, advantages, {"clip_ratio_c": 1e9, **theirs})
    if "penalty" in theirs:
        apart = verl.kl_penalty(drawn.logp, drawn.reference, theirs["penalty"])
        loss = loss + fields["kl"]["coefficient"] * verl.agg_loss(apart, mask, "token-mean")
    return drawn.case("reinforce++", fields, loss, "verl 0.9.1", advantages=advantages)


class _Config(SimpleNamespace):
    def get(self, name: str, usual: Any) -> Any:
        return getattr(self, name, usual)


def _verl(folder: Path) -> SimpleNamespace:
    """Functions of verl, without what their modules import."""
    of_tensors = _functions(folder / "verl/utils/torch_functional.py", (
        "masked_mean", "masked_sum", "masked_var", "masked_whiten", "clip_by_value"), {"torch": torch})  # fmt: skip
    names = (
        "compute_gae_advantage_return", "compute_policy_loss_vanilla", "compute_value_loss", "agg_loss", "kl_penalty",
        "kl_penalty_forward", "compute_reinforce_plus_plus_outcome_advantage",
        "compute_reinforce_plus_plus_baseline_outcome_advantage",
    )  # fmt: skip
    scope = {"torch": torch, "verl_F": SimpleNamespace(**of_tensors), "AlgoConfig": int, "Any": Any,
             "defaultdict": defaultdict}  # fmt: skip
    return SimpleNamespace(**_functions(folder / "verl/trainer/ppo/core_algos.py", names, scope))


def _functions(path: Path, names: tuple[str, ...], scope: dict[str, Any]) -> dict[str, Any]:
    found = [one for one in ast.parse(path.read_text()).body if isinstance(one, ast.FunctionDef) and one.name in names]
    for one in found:
        one.decorator_list.clear()
    future = ast.ImportFrom(module="__future__", names=[ast.alias("annotations")], level=0)
    exec(compile(ast.fix_missing_locations(ast.Module([future, *found], [])), str(path), "exec"), scope)
    return {name: scope[name] for name in names}


def online(fields: dict[str, Any]) -> dict[str, Any]:
    """Online DPO of two answers to each prompt."""
    from trl.experimental.online_dpo import OnlineDPOTrainer

    drawn, kept = Drawn(4, samples=2), []
    order = [0, 2, 1, 3]  # TRL lays all first answers before all second ones
    laid = [drawn.logp[order], drawn.reference[order].clone()]
    ids, mask = torch.ones(4, LONGEST, dtype=torch.int64), drawn.mask[order]
    trainer = _trainer(
        args=SimpleNamespace(use_vllm=False, missing_eos_penalty=None, torch_empty_cache_steps=None, n_gpu=1,
                             loss_type=fields.get("loss_type", "sigmoid"), gradient_accumulation_steps=1,
                             optim="adamw"),
        _generate=lambda *_: (ids, ids, ids, mask, None), eos_token_ids=[2], ref_model=object(), reward_funcs=[1],
        _forward=lambda *_: laid.pop(0), processing_class=SimpleNamespace(batch_decode=lambda *_, **__: ["a"] * 4),
        _calculate_rewards_from_functions=lambda **_: drawn.rewards.T.flatten(), beta=fields.get("beta", 0.1),
        stats=_Heard(),
    )  # fmt: skip
    trainer.accelerator.backward = lambda loss, **_: kept.append(loss)
    model = SimpleNamespace(train=lambda: None)
    OnlineDPOTrainer.training_step(trainer, model, {"prompt": ["a", "b"]})
    return drawn.case("online_dpo", fields, kept[0], "trl 1.16")


if __name__ == "__main__":
    main()
