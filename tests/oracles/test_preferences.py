"""Preference objectives and reward models are TRL's: the same losses and gradients on the same batch."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.chat.tokenizer import ChatTokenizer
from luthier.models.load import open_folder
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import TokenRow, build_pack
from luthier.models.sequence_head import add_sequence_head
from luthier.tune.objective import NOTHING, REFERENCE, Objective
from luthier.tune.objectives.cpo import Cpo
from luthier.tune.objectives.dpo import DpoObjective
from luthier.tune.objectives.kto import Kto
from luthier.tune.objectives.orpo import Orpo
from luthier.tune.objectives.reward import RewardObjective
from luthier.tune.objectives.simpo import Simpo
from luthier.tune.training.reference_logprobs import compute_row_logprob_sums, compute_row_logprobs
from tests.oracles.freeze_preferences import cases
from tuning import TuneEnv, make_env, pairs, thumbs

pytest.importorskip("trl", reason="TRL is not installed: no comparison with its losses")
Batch = dict[str, torch.Tensor]
Grads = dict[str, torch.Tensor]
MANY = 6
DPO: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"loss_type": "sigmoid"}, {"loss_types": ["sigmoid"]}),
    ({"loss_type": "sigmoid", "beta": 0.5}, {"loss_types": ["sigmoid"], "beta": 0.5}),
    ({"loss_type": "sigmoid", "normalize": "mean", "beta": 2.0}, {"loss_types": ["sigmoid_norm"], "beta": 2.0}),
    ({"loss_type": "sigmoid", "rpo_alpha": 0.7}, {"loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}),
    ({"loss_type": "hinge"}, {"loss_types": ["hinge"]}),
    ({"loss_type": "ipo"}, {"loss_types": ["ipo"]}),
    ({"loss_type": "robust", "label_smoothing": 0.1}, {"loss_types": ["robust"], "label_smoothing": 0.1}),
    ({"loss_type": "apo_zero"}, {"loss_types": ["apo_zero"]}),
    ({"loss_type": "apo_down"}, {"loss_types": ["apo_down"]}),
]
CPO: list[tuple[Objective, dict[str, Any]]] = [
    (Cpo(), {"loss_type": "sigmoid", "cpo_alpha": 1.0}),
    (Cpo(label_smoothing=0.1, cpo_alpha=0.0), {"loss_type": "sigmoid", "label_smoothing": 0.1, "cpo_alpha": 0.0}),
    (Cpo(loss_type="hinge", beta=0.3, cpo_alpha=0.5), {"loss_type": "hinge", "beta": 0.3, "cpo_alpha": 0.5}),
    (Cpo(loss_type="ipo", cpo_alpha=0.0), {"loss_type": "ipo", "cpo_alpha": 0.0}),
    (Simpo(), {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0}),
    (
        Simpo(gamma=0.5, beta=2.5, cpo_alpha=0.3),
        {"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 0.5, "cpo_alpha": 0.3},
    ),
]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def text(env: TuneEnv) -> ChatTokenizer:
    return ChatTokenizer.load(env.base.folder)


def rows_of(objective: Objective, text: ChatTokenizer) -> list[TokenRow]:
    given = thumbs(MANY) if isinstance(objective, Kto) else pairs(MANY)
    return [row for example in objective.build_training_examples(given, text, NOTHING) for row in example.rows]


def opened(env: TuneEnv) -> tuple[Any, Any]:
    """The model that learns and the one that it was, in float64."""
    return tuple(open_folder(one.folder, torch.float64) for one in (env.base, env.teacher))  # type: ignore[return-value]


def ours(objective: Objective, rows: list[TokenRow], model: Any, was: Any) -> tuple[float, Grads]:
    """Our loss and its gradients, over one pack."""
    if objective.needs_reference:
        found = compute_row_logprobs(was, rows, 1 << 14)
        rows = [
            replace(row, token_values={**row.token_values, REFERENCE: own})
            for row, own in zip(rows, found, strict=True)
        ]
    rows = objective.prepare_rows(rows, lambda some: compute_row_logprob_sums(model, some, 1 << 14))
    made = build_pack(rows)
    loss = objective.loss(
        compute_pack_logprobs(model, made), made, made.token_values.get(REFERENCE)
    ).total / objective.denominator(rows)
    return gone_back(model, loss)


def gone_back(model: Any, loss: torch.Tensor) -> tuple[float, Grads]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach()), {
        name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None
    }


def same(found: tuple[float, Grads], wanted: tuple[float, Grads]) -> None:
    assert found[0] == pytest.approx(wanted[0], abs=1e-6, rel=2e-6)  # TRL's head and its losses are in fp32
    for name, gradient in wanted[1].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def padded(rows: list[TokenRow], prefix: str = "", cut: int = 0) -> Batch:
    """A batch as TRL's collators make it."""
    pad = torch.nn.utils.rnn.pad_sequence
    ids = [torch.tensor(row.ids[: len(row.ids) - cut]) for row in rows]
    answers = [torch.tensor(row.loss_weights) > 0 for row in rows]
    found = {
        "input_ids": pad(ids, batch_first=True, padding_value=2),
        "attention_mask": pad([torch.ones_like(one) for one in ids], batch_first=True),
        "completion_mask": pad(answers, batch_first=True).long(),
    }
    return {f"{prefix}{name}": value for name, value in found.items()}


def trainer(kind: str, env: TuneEnv, folder: Path, model: Any, **more: Any) -> Any:
    """One of TRL's trainers over a data set that nobody looks at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other people's libraries say of one another
        import trl
        from datasets import Dataset
        from transformers import AutoTokenizer

        if kind in ("CPO", "ORPO"):
            from trl.experimental.cpo import CPOConfig, CPOTrainer
            from trl.experimental.orpo import ORPOConfig, ORPOTrainer

            config, made = (CPOConfig, CPOTrainer) if kind == "CPO" else (ORPOConfig, ORPOTrainer)
        else:
            config, made = getattr(trl, f"{kind}Config"), getattr(trl, f"{kind}Trainer")
        row = (
            {"prompt": "a", "completion": "b", "label": True} if kind == "KTO" else {"chosen": "a b", "rejected": "a c"}
        )
        row = {"prompt": "a", "chosen": "b", "rejected": "c"} if kind in ("DPO", "CPO", "ORPO") else row
        settings = config(
            output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False,
            per_device_train_batch_size=2,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(env.base.folder)
        rows = Dataset.from_list([row, {**row, "label": False}] if kind == "KTO" else [row, row])
        return made(model=model, args=settings, train_dataset=rows, processing_class=tokenizer, **more)


def put(peer: Any, **settings: Any) -> None:
    """Settings that a trainer reads at each batch."""
    for name, value in settings.items():
        setattr(peer, name, value)


def asked(found: Any, batch: Batch) -> torch.Tensor:
    """The loss that a trainer of TRL takes of a batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss: torch.Tensor = found.compute_loss(found.model, batch)
    return loss


def sided(rows: list[TokenRow]) -> list[TokenRow]:
    """All preferred answers, then all others."""
    return [*rows[::2], *rows[1::2]]


def test_dpo_is_trls(env: TuneEnv, text: ChatTokenizer, tmp_path: Path) -> None:
    model, was = opened(env)
    peer = trainer("DPO", env, tmp_path, model, ref_model=was)
    plain = {"beta": 0.1, "label_smoothing": 0.0}
    for mine, theirs in DPO:
        objective = DpoObjective(**mine)
        rows = rows_of(objective, text)
        put(peer, **{**plain, "loss_weights": [1.0], **theirs})
        same(ours(objective, rows, model, was), gone_back(model, asked(peer, padded(sided(rows)))))


def test_cpo_and_simpo_are_trls(env: TuneEnv, text: ChatTokenizer, tmp_path: Path) -> None:
    model, was = opened(env)
    peer = trainer("CPO", env, tmp_path, model)
    for objective, theirs in CPO:
        rows = rows_of(objective, text)
        batch = {**labelled(rows[::2], "chosen_"), **labelled(rows[1::2], "rejected_")}
        put(peer, **{"beta": 0.1, "label_smoothing": 0.0, **theirs})
        same(ours(objective, rows, model, was), gone_back(model, asked(peer, batch)))


def labelled(rows: list[TokenRow], prefix: str) -> Batch:
    found = padded(rows)
    labels = found["input_ids"].masked_fill(found.pop("completion_mask") == 0, -100)
    return {f"{prefix}{name}": value for name, value in {**found, "labels": labels}.items()}


def test_orpo_is_trls_but_for_the_prompt_which_it_learns(env: TuneEnv, text: ChatTokenizer, tmp_path: Path) -> None:
    model, was = opened(env)
    peer, objective = trainer("ORPO", env, tmp_path, model), Orpo(weight=0.2)
    put(peer, beta=0.2)
    rows = rows_of(objective, text)
    batch = {**labelled(rows[::2], "chosen_"), **labelled(rows[1::2], "rejected_")}
    chosen = labelled(rows[::2], "")
    prompts = {**chosen, "labels": chosen["input_ids"].masked_fill(chosen["attention_mask"] == 0, -100)}
    whole, answers = (mean_loss(model, one) for one in (prompts, chosen))
    same(ours(objective, rows, model, was), gone_back(model, asked(peer, batch) - whole + answers))


def mean_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Cross-entropy averaged over what has a label."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


@pytest.mark.parametrize(
    "fields",
    [{}, {"beta": 0.3, "desirable_weight": 2.0, "undesirable_weight": 0.5}, {"loss_type": "apo_zero"}],
)
def test_kto_is_trls(env: TuneEnv, text: ChatTokenizer, tmp_path: Path, fields: dict[str, Any]) -> None:
    model, was = opened(env)
    peer, objective = trainer("KTO", env, tmp_path, model, ref_model=was), Kto(**fields)
    form = "kto" if objective.loss_type == "kto" else "apo_zero_unpaired"
    weights = {"desirable_weight": objective.desirable_weight, "undesirable_weight": objective.undesirable_weight}
    put(peer, beta=objective.beta, loss_type=form, calculate_KL=form == "kto", **weights)
    rows = rows_of(objective, text)
    answers = rows[::2] if objective.loss_type == "kto" else rows
    labels = torch.tensor([bool(row.token_values["wanted"][0]) for row in answers])
    batch = {**padded(answers), **(padded(rows[1::2], "KL_") if objective.loss_type == "kto" else {}), "label": labels}
    same(ours(objective, rows, model, was), gone_back(model, asked(peer, batch)))


@pytest.mark.parametrize("fields", [{}, {"center": 0.01}, {"margin": "row", "scale": 0.5, "ties": "learn"}])
def test_a_reward_model_is_trls(env: TuneEnv, text: ChatTokenizer, tmp_path: Path, fields: dict[str, Any]) -> None:
    objective = RewardObjective(**fields)
    model = add_sequence_head(opened(env)[0], objective.outputs(NOTHING))
    torch.manual_seed(0)
    torch.nn.init.normal_(model.score.weight)
    peer = trainer("Reward", env, tmp_path, model)
    put(peer.args, center_rewards_coefficient=objective.center or None)
    rows = [row for row in rows_of(objective, text) if not fields.get("margin") or row.token_values["margin"][0]]
    batch = padded(sided(rows), cut=1)
    del batch["completion_mask"]
    if objective.margin:
        batch["margin"] = torch.tensor([row.token_values["margin"][0] for row in rows[::2]])
    wanted = gone_back(model, asked(peer, batch))
    same(ours(objective, rows, model, None), wanted)


def test_what_is_frozen_is_what_the_installed_trl_gives() -> None:
    """`tests/tune/test_preferences.py` holds losses and gradients to the file; here TRL is held to it."""
    frozen = json.loads((Path(__file__).parents[1] / "tune" / "preferences.json").read_text(encoding="utf-8"))
    live = cases()
    assert [case["objective"] for case in live] == [case["objective"] for case in frozen]
    for now, then in zip(live, frozen, strict=True):
        assert now["loss"] == pytest.approx(then["loss"], abs=1e-9), now["objective"]
        for found, wanted in zip(now["gradient"], then["gradient"], strict=True):
            assert found == pytest.approx(wanted, abs=1e-9), now["objective"]
