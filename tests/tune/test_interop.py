"""Other people's loops make the same loss and the same gradient as our own, from the same rows."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.errors import DataError, InputError, ModelError
from luthier.models.load import open_folder
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import build_pack
from luthier.models.sequence_head import add_sequence_head
from luthier.tune.interop import (
    IGNORED,
    OptimizerStepSettings,
    build_compute_loss_func,
    build_lightning_datamodule,
    build_optimizer_steps,
    to_hf_dataset,
)
from luthier.tune.objective import Objective
from luthier.tune.objectives.classify import Classify
from luthier.tune.objectives.cpo import Cpo
from luthier.tune.objectives.distil import Distil
from luthier.tune.objectives.dpo import DpoObjective
from luthier.tune.objectives.grpo import Grpo
from luthier.tune.objectives.kto import Kto
from luthier.tune.objectives.orpo import Orpo
from luthier.tune.objectives.reward import RewardObjective
from luthier.tune.objectives.sft import Sft
from luthier.tune.objectives.simpo import Simpo
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import Technique
from luthier.tune.techniques.full import FullFineTuning
from luthier.tune.techniques.lora import Lora
from tuning import TuneEnv, adapted, examples, make_env, pairs, thumbs

pytest.importorskip("datasets", reason="datasets is not installed: no data for the Trainer")
ROWS = examples(8)


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def own_step(env: TuneEnv, technique: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one step of the own loop over all rows."""
    model, objective = adapted(env, technique), Sft()
    rows = [
        row
        for example in objective.build_training_examples(ROWS, ChatTokenizer.load(env.base.folder))
        for row in example.rows
    ]
    made = build_pack(rows)
    loss = objective.loss(compute_pack_logprobs(model, made), made, None).total / objective.denominator(rows)
    loss.backward()
    return float(loss.detach()), {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def moved(before: dict[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """The gradient that one step of plain descent at rate 1 went down."""
    return {name: before[name] - one.detach() for name, one in model.named_parameters() if one.requires_grad}


def copied(model: Any) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in model.named_parameters()}


@pytest.mark.parametrize("technique", [FullFineTuning(), Lora(r=4)], ids=["full", "lora"])
@pytest.mark.parametrize("accumulated", [1, 4])
def test_a_trainers_step_is_ours(env: TuneEnv, technique: Any, accumulated: int, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    model = adapted(env, technique)
    data = to_hf_dataset(Sft(), ROWS, ChatTokenizer.load(env.base.folder))
    settings = TrainingArguments(
        str(tmp_path), max_steps=1, per_device_train_batch_size=8 // accumulated, report_to="none", max_grad_norm=0,
        gradient_accumulation_steps=accumulated, logging_steps=1, save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    down = torch.optim.SGD(model.parameters(), lr=1.0)
    before = copied(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what transformers says of itself
        trainer = Trainer(
            model=model, args=settings, train_dataset=data, compute_loss_func=build_compute_loss_func(Sft()),
            data_collator=DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(env.base.folder)),
            optimizers=(down, torch.optim.lr_scheduler.ConstantLR(down, factor=1.0)),
        )  # fmt: skip
        trainer.train()
    loss, gradients = own_step(env, technique)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss, abs=1e-4)  # the Trainer logs four digits
    came = moved(before, model)
    assert set(came) == set(gradients)
    for name, wanted in gradients.items():
        torch.testing.assert_close(came[name], wanted, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.matrix
@pytest.mark.parametrize("technique", [FullFineTuning(), Lora(r=4)], ids=["full", "lora"])
@pytest.mark.parametrize("tokens", [4096, 60])
def test_a_lightning_step_is_ours(env: TuneEnv, technique: Any, tokens: int) -> None:
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed: no comparison with its loop")
    losses: list[float] = []

    class Tuner(lightning.LightningModule):  # type: ignore[misc, name-defined]  # imported just above
        def __init__(self) -> None:
            super().__init__()
            self.model = adapted(env, technique)

        def training_step(self, step: Any, number: int) -> torch.Tensor:
            loss: torch.Tensor = step.loss(self.model, Sft())
            losses.append(float(loss.detach()))
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1.0)

    tuner = Tuner()
    before = copied(tuner.model)
    data = build_lightning_datamodule(
        Sft(),
        ROWS,
        ChatTokenizer.load(env.base.folder),
        OptimizerStepSettings(batch_size=8, max_tokens_per_microbatch=tokens),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Lightning says of data loaders without workers
        trainer = lightning.Trainer(
            max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(tuner, data)
    loss, gradients = own_step(env, technique)
    assert losses == [pytest.approx(loss, abs=1e-5)]
    for name, wanted in gradients.items():
        torch.testing.assert_close(moved(before, tuner.model)[name], wanted, atol=1e-5, rtol=1e-5, msg=name)


def test_labels_are_what_is_learnt_and_nothing_else(env: TuneEnv) -> None:
    text = ChatTokenizer.load(env.base.folder)
    rows = [example.rows[0] for example in Sft().build_training_examples(ROWS, text)]
    for told, row in zip(to_hf_dataset(Sft(), ROWS, text), rows, strict=True):
        assert told["input_ids"] == list(row.ids)
        assert [label != IGNORED for label in told["labels"]] == [weight > 0 for weight in row.loss_weights]


def test_steps_are_those_of_the_own_loop(env: TuneEnv) -> None:
    steps = build_optimizer_steps(
        Sft(), ROWS, ChatTokenizer.load(env.base.folder), OptimizerStepSettings(epochs=2, batch_size=3, seed=4)
    )
    assert [sum(one.rows for one in step.packs) for step in steps] == [3, 3, 3, 3, 3, 1]
    seen = [key for step in steps for one in step.packs for key in one.keys]
    assert sorted(seen) == sorted(2 * [example.id for example in ROWS])


def test_steps_carry_what_labels_cannot(env: TuneEnv) -> None:
    step = build_optimizer_steps(
        Classify(), ROWS, ChatTokenizer.load(env.base.folder), OptimizerStepSettings(batch_size=8)
    )[0]
    assert sum(one.rows for one in step.packs) == 8 * len({row.label for row in ROWS})
    assert step.denominator == pytest.approx(8)
    assert 0 < step.loss(adapted(env, Lora(r=4)), Classify()).item() < 50


COMPARED: dict[str, Objective] = {
    "dpo": DpoObjective(),
    "dpo with answers": DpoObjective(rpo_alpha=0.5, loss_type="ipo"),
    "orpo": Orpo(),
    "simpo": Simpo(cpo_alpha=0.3),
    "cpo": Cpo(),
    "kto unpaired": Kto(loss_type="apo_zero"),
}


@pytest.mark.matrix
@pytest.mark.parametrize("objective", COMPARED.values(), ids=COMPARED)
def test_preferences_are_those_of_the_own_loop(objective: Objective, tmp_path: Path) -> None:
    rows = thumbs(8) if objective.kind == "kto" else pairs(8)
    own = make_env(tmp_path, rows)
    step = Tune(
        data="data", technique={"kind": "full"}, objective=objective, batch_size=8, epochs=3, warmup_ratio=0,
        lr_scheduler="constant", learning_rate=1e-2, max_grad_norm=1e9, dtype="float32",
        optimizer={"kind": "adamw", "weight_decay": 0.0},
    )  # fmt: skip
    log = [json.loads(line) for line in (own.tune(step).folder / "log.jsonl").read_text().splitlines()]
    model = FullFineTuning().adapt(open_folder(own.base.folder, torch.float32), 3)
    how = OptimizerStepSettings(epochs=3, batch_size=8, seed=3)
    steps = build_optimizer_steps(objective, rows, ChatTokenizer.load(own.base.folder), how, reference=model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.999), weight_decay=0.0)
    for told, taken in zip(log, steps, strict=True):
        loss = taken.loss(model, objective)
        assert float(loss.detach()) == pytest.approx(told["loss"], abs=2e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert log[0]["loss"] - log[-1]["loss"] > 1e-3


@pytest.mark.parametrize("objective", [Sft(), Orpo()], ids=["sft", "orpo"])
@pytest.mark.parametrize("technique", [FullFineTuning(), Lora(r=4, lora_dropout=0.5)], ids=["full", "lora"])
def test_dropout_is_that_of_the_own_loop(tmp_path: Path, objective: Objective, technique: Technique) -> None:
    """What is built into a model is off for preferences, an adapter's is on, and the model's mode stays as it was."""
    rows = pairs(8)
    own = make_env(tmp_path, rows)
    config = own.base.folder / "config.json"
    config.write_text(config.read_text().replace('"attention_dropout": 0.0', '"attention_dropout": 0.5'))
    (step,) = build_optimizer_steps(
        objective, rows, ChatTokenizer.load(own.base.folder), OptimizerStepSettings(batch_size=8)
    )
    model = adapted(own, technique).train()
    modes = [module.training for module in model.modules()]

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return float(step.loss(model, objective).detach())

    drops = objective.kind == "sft" or technique.kind == "lora"
    assert (loss(1) != loss(2)) == drops
    assert [module.training for module in model.modules()] == modes
    model.eval()
    assert loss(1) == loss(2)


@pytest.mark.parametrize("objective", [Classify(head="sequence"), RewardObjective()], ids=["classify", "reward"])
def test_a_sequence_head_is_wanted_where_the_objective_reads_one(env: TuneEnv, objective: Objective) -> None:
    step = build_optimizer_steps(
        objective, ROWS if objective.kind == "classify" else pairs(8), ChatTokenizer.load(env.base.folder)
    )[0]
    plain = open_folder(env.base.folder, torch.float32)
    with pytest.raises(ModelError, match="the model has a language head"):
        step.loss(plain, objective)
    loss = step.loss(Lora(r=4).adapt(add_sequence_head(plain, step.outputs), 0), objective)
    assert float(loss.detach()) == pytest.approx(
        math.log(3 if objective.kind == "classify" else 2)
    )  # it begins at zero


def test_what_labels_cannot_tell_is_refused(env: TuneEnv) -> None:
    text = ChatTokenizer.load(env.base.folder)
    with pytest.raises(InputError, match="labels cannot tell"):
        to_hf_dataset(Sft(average="row"), ROWS, text)
    for make in (to_hf_dataset, build_optimizer_steps):
        with pytest.raises(DataError, match="nothing can be learnt"):
            make(Sft(max_length=8), ROWS, text)


def test_what_others_loops_cannot_do_is_refused(env: TuneEnv) -> None:
    text = ChatTokenizer.load(env.base.folder)
    for take in (to_hf_dataset, build_optimizer_steps):
        with pytest.raises(InputError, match="learns from a teacher"):
            take(Distil(), ROWS, text)
    with pytest.raises(InputError, match="compares with the model as it was"):
        build_optimizer_steps(DpoObjective(), pairs(8), text)
    with pytest.raises(InputError, match="asks the model before each step"):
        build_optimizer_steps(Kto(), thumbs(8), text, reference=adapted(env, Lora(r=4)))
    with pytest.raises(InputError, match="what the model itself writes"):
        build_optimizer_steps(Grpo(rewards=[{"kind": "length", "free": 4, "max": 8}]), ROWS, text)
    for objective in (Classify(), Classify(head="sequence")):
        with pytest.raises(InputError, match="labels cannot tell"):
            to_hf_dataset(objective, ROWS, text)
