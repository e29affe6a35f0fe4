"""Writes `tests/tune/preferences.json`: what TRL 1.16 makes of the same pairs and thumbs, losses and gradients.

    python tests/oracles/freeze_preferences.py

TRL's own trainers take the losses; in the place of their model stands one whose answers have given log-probabilities.
"""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import torch

LENGTHS = [3, 4, 2, 1, 4, 2, 1, 3]
"""Learnt tokens of each answer: the preferred one of a pair first, then the other; of KTO's, every answer with the one
beside it that measures the drift."""
LONGEST = 4
Case = tuple[dict[str, Any], dict[str, Any]]
DPO: list[Case] = [
    ({}, {"loss_types": ["sigmoid"]}),
    ({"beta": 0.5}, {"loss_types": ["sigmoid"], "beta": 0.5}),
    ({"beta": 2.0, "normalize": "mean"}, {"loss_types": ["sigmoid_norm"], "beta": 2.0}),
    ({"rpo_alpha": 0.7}, {"loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}),
    ({"loss_type": "hinge"}, {"loss_types": ["hinge"]}),
    ({"loss_type": "hinge", "beta": 2.0}, {"loss_types": ["hinge"], "beta": 2.0}),
    ({"loss_type": "ipo"}, {"loss_types": ["ipo"]}),
    ({"loss_type": "robust", "label_smoothing": 0.1}, {"loss_types": ["robust"], "label_smoothing": 0.1}),
    ({"loss_type": "apo_zero"}, {"loss_types": ["apo_zero"]}),
    ({"loss_type": "apo_down"}, {"loss_types": ["apo_down"]}),
]
SMOOTHED: Case = ({"label_smoothing": 0.1}, {"loss_types": ["aot"], "label_smoothing": 0.1})
"""TRL has no smoothed `sigmoid`; its `aot` of one pair alone is that, for one pair cannot be sorted."""
CPO: list[Case] = [
    ({}, {"loss_type": "sigmoid", "cpo_alpha": 1.0}),
    ({"label_smoothing": 0.1, "cpo_alpha": 0.0}, {"loss_type": "sigmoid", "label_smoothing": 0.1, "cpo_alpha": 0.0}),
    ({"loss_type": "hinge", "beta": 0.3, "cpo_alpha": 0.5}, {"loss_type": "hinge", "beta": 0.3, "cpo_alpha": 0.5}),
    ({"loss_type": "ipo", "cpo_alpha": 0.0}, {"loss_type": "ipo", "cpo_alpha": 0.0}),
]
SIMPO: list[Case] = [
    ({}, {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0}),
    ({"beta": 2.5, "gamma": 0.5, "cpo_alpha": 0.3},
     {"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 0.5, "cpo_alpha": 0.3}),
]  # fmt: skip
ORPO: list[Case] = [({}, {}), ({"weight": 0.25}, {"beta": 0.25})]
KTO: list[Case] = [
    ({}, {"loss_type": "kto"}),
    ({"beta": 0.3, "desirable_weight": 2.0, "undesirable_weight": 0.5},
     {"loss_type": "kto", "beta": 0.3, "desirable_weight": 2.0, "undesirable_weight": 0.5}),
    ({"loss_type": "apo_zero"}, {"loss_type": "apo_zero_unpaired"}),
]  # fmt: skip
REWARD: list[Case] = [
    ({}, {}),
    ({"center": 0.01}, {"center": 0.01}),
    ({"margin": "row", "scale": 0.5}, {"margins": [0.5, 1.0, 0.25, 2.0]}),
]


def cases() -> list[dict[str, Any]]:
    """All of them, in the order of the file."""
    found = [dpo(*case) for case in DPO] + [smoothed(*SMOOTHED)]
    found += [cpo("cpo", *case) for case in CPO] + [cpo("simpo", *case) for case in SIMPO]
    return [*found, *(orpo(*case) for case in ORPO), *(kto(*case) for case in KTO), *(reward(*case) for case in REWARD)]


def main() -> None:
    """Write the file, a case a line."""
    warnings.simplefilter("ignore")
    path = Path(__file__).parents[1] / "tune" / "preferences.json"
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases()) + "\n]\n", encoding="utf-8")


class Rows:
    """Log-probabilities of answers by the model that learns and by the one that it was, padded."""

    def __init__(self, seed: int, spread: float = 0.6) -> None:
        chance = numpy.random.Generator(numpy.random.PCG64(seed))
        shape = (len(LENGTHS), LONGEST)
        logp, was = (
            torch.tensor(-0.05 - abs(chance.normal(0.9, spread, shape))).round(decimals=4) for _ in range(2)
        )  # fmt: skip
        self.logp, self.was = logp.requires_grad_(), was
        self.mask = torch.tensor([[float(at < length) for at in range(LONGEST)] for length in LENGTHS]).double()

    def batch(self, order: Sequence[int], prefix: str = "") -> dict[str, torch.Tensor]:
        """Some rows as a collator lays them: one token before each answer, every learnt token 0."""
        mask = torch.nn.functional.pad(self.mask[list(order)], (1, 0)).long()
        whole = mask.clone()
        whole[:, 0] = 1
        told = {"input_ids": torch.zeros_like(mask), "attention_mask": whole, "completion_mask": mask}
        return {f"{prefix}{name}": value for name, value in told.items()}

    def says(self, values: torch.Tensor, *orders: Sequence[int]) -> Any:
        """A model that gives, call by call, some rows their log-probabilities."""
        left = list(orders)

        def model(*_: Any, **__: Any) -> SimpleNamespace:
            order = list(left.pop(0))
            logps, mask = values[order], self.mask[order]
            logits = torch.stack([logps, (-logps.exp()).log1p()], -1)  # softmax gives back exp(logps)
            logits = torch.nn.functional.pad(logits, (0, 0, 0, 1))
            nothing = torch.zeros_like(logps)
            return SimpleNamespace(log_probs=logps * mask, logits=logits, entropy=nothing, mean_logits=nothing,
                                   is_top1=nothing.bool())  # fmt: skip

        return model

    def case(self, kind: str, fields: dict[str, Any], loss: torch.Tensor, **more: Any) -> dict[str, Any]:
        """What stands in the file."""
        loss.backward()
        assert self.logp.grad is not None
        told = {"logp": self.logp.detach(), "gradient": self.logp.grad, **more}
        found = {
            name: [row[:length] for row, length in zip(value.tolist(), LENGTHS, strict=True)]
            if isinstance(value, torch.Tensor)
            else value
            for name, value in told.items()
        }
        return {"objective": {"kind": kind, **fields}, "peer": "trl 1.16", "loss": float(loss.detach()), **found}


def _bare() -> torch.nn.Module:
    """What trainers ask of a model beside its answers."""
    found = torch.nn.Module()
    vars(found)["is_gradient_checkpointing"] = False
    return found


def _trainer(made: Any, model: Any, was: Any = None, **settings: Any) -> Any:
    """One of TRL's trainers, with no more than its losses ask for."""

    def same(value: Any, **_: Any) -> Any:
        return value

    found = made.__new__(made)
    metrics: Any = {"train": defaultdict(list)}
    usual = {
        "model": _bare(), "ref_model": was, "_metrics": metrics, "_stored_metrics": metrics,
        "args": SimpleNamespace(gradient_checkpointing_kwargs=None, device="cpu", center_rewards_coefficient=None),
        "accelerator": SimpleNamespace(
            device=torch.device("cpu"), gather=same, gather_for_metrics=same, num_processes=1
        ),
        "aux_loss_enabled": False, "ld_alpha": None, "precompute_ref_logps": False, "use_weighting": False,
        "f_divergence_type": "reverse_kl", "loss_weights": [1.0], "beta": 0.1, "label_smoothing": 0.0,
        "_total_train_tokens": 0, "_tp_size": 1, "is_encoder_decoder": False, "pad_token_id": 0, "padding_value": 0,
        "_peft_has_been_casted_to_bf16": False, "alpha": 0.0, "desirable_weight": 1.0, "undesirable_weight": 1.0,
    }  # fmt: skip
    vars(found).update({**usual, **settings})
    vars(found)["asked"] = model
    return found


def _asked(trainer: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss: torch.Tensor = trainer.compute_loss(trainer.asked, batch)
    return loss


def _sides(pairs: Sequence[int] = range(len(LENGTHS) // 2)) -> list[int]:
    """All preferred answers, then all others."""
    return [2 * pair for pair in pairs] + [2 * pair + 1 for pair in pairs]


def dpo(fields: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """DPO's forms, all pairs in one batch."""
    rows = Rows(1)
    return rows.case("dpo", fields, _dpo(rows, _sides(), theirs), reference=rows.was)


def smoothed(fields: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """The mean over the pairs, each in a batch of its own."""
    rows = Rows(1)
    each = [_dpo(rows, _sides([pair]), theirs) for pair in range(len(LENGTHS) // 2)]
    return rows.case("dpo", fields, torch.stack(each).mean(), reference=rows.was)


def _dpo(rows: Rows, order: list[int], theirs: dict[str, Any]) -> torch.Tensor:
    from trl import DPOTrainer

    model, was = rows.says(rows.logp, order), rows.says(rows.was, order)
    return _asked(_trainer(DPOTrainer, model, was, **theirs), rows.batch(order))


def _labelled(rows: Rows) -> dict[str, torch.Tensor]:
    """The batch of trainers that take both answers apart, with labels."""
    found: dict[str, torch.Tensor] = {}
    for name, order in (("chosen_", _sides()[:4]), ("rejected_", _sides()[4:])):
        batch = rows.batch(order)
        batch["labels"] = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, -100)
        found |= {f"{name}{key}": value for key, value in batch.items()}
    return found


def cpo(kind: str, fields: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """CPO, and SimPO, which TRL has as a form of it."""
    from trl.experimental.cpo import CPOTrainer

    rows = Rows(2)
    return rows.case(
        kind, fields, _asked(_trainer(CPOTrainer, rows.says(rows.logp, _sides()), **theirs), _labelled(rows))
    )


def orpo(fields: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """ORPO; the prompt of one token, which TRL would learn too, is predicted by none."""
    from trl.experimental.orpo import ORPOTrainer

    rows = Rows(3)
    return rows.case(
        "orpo", fields, _asked(_trainer(ORPOTrainer, rows.says(rows.logp, _sides()), **theirs), _labelled(rows))
    )


def kto(fields: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """KTO: answers at even places, beside each the one that measures the drift; without drift all are answers."""
    from trl import KTOTrainer

    rows, every, drifts = Rows(4), list(range(len(LENGTHS))), theirs["loss_type"] == "kto"
    order, beside = (every[::2], every[1::2]) if drifts else (every, [])
    wanted = [True, False, False, True] if drifts else [True, False] * 4
    asked = (beside, order) if drifts else (order,)
    batch = {**rows.batch(order), **(rows.batch(beside, "KL_") if drifts else {}), "label": torch.tensor(wanted)}
    model, was = rows.says(rows.logp, *asked), rows.says(rows.was, *asked)
    loss = _asked(_trainer(KTOTrainer, model, was, calculate_KL=drifts, **theirs), batch)
    told = [{"wanted": float(one)} for one in wanted for _ in range(1 + drifts)]
    return rows.case("kto", fields, loss, reference=rows.was, told=told)


def reward(fields: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """A reward model, whose one number for an answer stands in the place of its only token."""
    from trl import RewardTrainer

    chance = numpy.random.Generator(numpy.random.PCG64(5))
    rewards = torch.tensor(chance.normal(0, 1, 8)).round(decimals=4).requires_grad_()
    batch = {"input_ids": torch.zeros(8, 2).long(), "attention_mask": torch.ones(8, 2).long()}
    margins = theirs.get("margins", [0.0] * 4)
    if theirs.get("margins"):
        batch["margin"] = torch.tensor(margins, dtype=torch.float64)
    trainer = _trainer(RewardTrainer, lambda **_: SimpleNamespace(logits=rewards[_sides()][:, None]))
    vars(trainer.args)["center_rewards_coefficient"] = theirs.get("center")
    loss = _asked(trainer, batch)
    loss.backward()
    assert rewards.grad is not None
    told = {name: value.detach()[:, None].tolist() for name, value in (("logp", rewards), ("gradient", rewards.grad))}
    return {"objective": {"kind": "reward", **fields}, "peer": "trl 1.16", "loss": float(loss.detach()), **told,
            "told": [{"margin": margin} for margin in margins for _ in range(2)]}  # fmt: skip


if __name__ == "__main__":
    main()
