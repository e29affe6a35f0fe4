"""One step of TRL, of transformers and of PEFT by themselves: the same loss and the same gradients on the same rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.chat.tokenizer import ChatTokenizer
from luthier.models.kernels.lora import install_fused_lora
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import TokenRow, build_pack, build_packs
from luthier.tune.objectives.sft import Sft
from luthier.tune.technique import Technique
from luthier.tune.techniques.full import FullFineTuning
from luthier.tune.techniques.lora import Lora
from tuning import TuneEnv, adapted, examples, make_env

pytest.importorskip("trl", reason="TRL is not installed: no comparison with its loss")


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def trl_step(model: Any, rows: list[TokenRow], folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the first batch of TRL's trainer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other people's libraries say of one another
        from datasets import Dataset
        from transformers import AutoTokenizer
        from trl import SFTConfig, SFTTrainer

        table = [
            {"input_ids": list(row.ids), "completion_mask": [int(w > 0) for w in row.loss_weights]} for row in rows
        ]
        settings = SFTConfig(
            output_dir=str(folder / "trl"), per_device_train_batch_size=len(rows), use_cpu=True, report_to="none",
            bf16=False, gradient_checkpointing=False, completion_only_loss=True, max_length=None,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(shop_folder(model))
        trainer = SFTTrainer(
            model=model, args=settings, train_dataset=Dataset.from_list(table), processing_class=tokenizer
        )
        batch = next(iter(trainer.get_train_dataloader()))
        model.zero_grad()
        loss = trainer.compute_loss(model, batch)
        loss.backward()
    return float(loss.detach()), {name: one.grad.clone() for name, one in model.named_parameters() if one.requires_grad}


def shop_folder(model: Any) -> str:
    return str(getattr(model, "name_or_path", "") or model.config._name_or_path)


@pytest.mark.parametrize("technique", [FullFineTuning(), Lora(r=4)], ids=["full", "lora"])
def test_loss_and_gradients_are_trls(env: TuneEnv, technique: Technique, tmp_path: Path) -> None:
    objective = Sft()
    dataset = objective.build_training_examples(examples(6), ChatTokenizer.load(env.base.folder))
    rows = [row for example in dataset for row in example.rows]
    wanted, wanted_gradients = trl_step(adapted(env, technique), rows, tmp_path)
    model = adapted(env, technique)
    install_fused_lora(model)
    made = build_pack(rows)
    loss = objective.loss(compute_pack_logprobs(model, made), made, None).total / objective.denominator(rows)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(wanted, abs=1e-6)
    ours = {name: one.grad for name, one in model.named_parameters() if one.requires_grad}
    assert ours.keys() == wanted_gradients.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, wanted_gradients[name], atol=1e-6, rtol=1e-4, msg=name)


def padded(rows: list[TokenRow]) -> dict[str, torch.Tensor]:
    """A batch as everybody's collator makes it: padded at the end, labels -100 where nothing is learnt."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row.ids) for row in rows], batch_first=True)
    seen = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row.ids), dtype=torch.int64) for row in rows], True)
    learnt = torch.nn.utils.rnn.pad_sequence([torch.tensor(row.loss_weights) > 0 for row in rows], batch_first=True)
    return {"input_ids": ids, "attention_mask": seen, "labels": ids.masked_fill(~learnt, -100)}


def gradients(model: Any, losses: Iterable[torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    """The sum of some losses and its gradient, gone back one after another as under accumulation."""
    model.zero_grad()
    total = 0.0
    for loss in losses:
        loss.backward()
        total += float(loss.detach())
    return total, {name: one.grad.clone() for name, one in model.named_parameters() if one.requires_grad}


@pytest.mark.parametrize("product", [False, True], ids=["pefts-forward", "one-product"])
@pytest.mark.parametrize("technique", [FullFineTuning(), Lora(r=4)], ids=["full", "lora"])
def test_accumulated_loss_and_gradients_are_transformers_and_pefts(
    env: TuneEnv, technique: Technique, product: bool
) -> None:
    """transformers' loss over micro-batches of 1, 3 and 2 rows with `num_items_in_batch`; ours over small packs."""
    rows = [
        row
        for example in Sft().build_training_examples(examples(6), ChatTokenizer.load(env.base.folder))
        for row in example.rows
    ]
    items = sum(len(row.targets) for row in rows)
    model = adapted(env, technique).double()
    parts = (rows[:1], rows[1:4], rows[4:])
    wanted, wanted_gradients = gradients(
        model, (model(**padded(part), num_items_in_batch=items).loss for part in parts)
    )
    if product:
        install_fused_lora(model)
    objective, made = Sft(), build_packs(rows, 90)
    assert len(made) > 1
    losses = (
        objective.loss(compute_pack_logprobs(model, one), one, None).total / objective.denominator(rows) for one in made
    )
    found, found_gradients = gradients(model, losses)
    assert found == pytest.approx(wanted, rel=1e-5)  # transformers takes the loss in fp32, whatever the model
    for name, gradient in wanted_gradients.items():
        error = (found_gradients[name] - gradient).norm() / gradient.norm().clamp_min(1e-6)
        assert error < 1e-5, f"{name}: {float(error):.1e}"


def test_a_step_of_trl_over_three_micro_batches_moves_the_weights_as_one_of_ours(env: TuneEnv, tmp_path: Path) -> None:
    """Plain gradient descent at rate 1: what TRL's trainer takes away in one accumulated step is our gradient."""
    rows = [
        row
        for example in Sft().build_training_examples(examples(6), ChatTokenizer.load(env.base.folder))
        for row in example.rows
    ]
    theirs, ours = adapted(env, Lora(r=4)), adapted(env, Lora(r=4))
    before = {name: one.detach().clone() for name, one in theirs.named_parameters() if one.requires_grad}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other people's libraries say of one another
        from datasets import Dataset
        from transformers import AutoTokenizer
        from trl import SFTConfig, SFTTrainer

        table = [
            {"input_ids": list(row.ids), "completion_mask": [int(w > 0) for w in row.loss_weights]} for row in rows
        ]
        settings = SFTConfig(
            output_dir=str(tmp_path / "trl"), per_device_train_batch_size=2, gradient_accumulation_steps=3, max_steps=1,
            optim="sgd", learning_rate=1.0, lr_scheduler_type="constant", max_grad_norm=0.0, use_cpu=True, bf16=False,
            report_to="none", save_strategy="no", gradient_checkpointing=False, completion_only_loss=True,
            max_length=None, disable_tqdm=True,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(shop_folder(theirs))
        SFTTrainer(
            model=theirs, args=settings, train_dataset=Dataset.from_list(table), processing_class=tokenizer
        ).train()
    moved = {name: before[name] - one.detach() for name, one in theirs.named_parameters() if one.requires_grad}
    made = build_pack(rows)
    _, found = gradients(
        ours, [Sft().loss(compute_pack_logprobs(ours, made), made, None).total / Sft().denominator(rows)]
    )
    assert max(float(one.abs().max()) for one in moved.values()) > 1e-3
    for name, gradient in found.items():
        torch.testing.assert_close(
            gradient, moved[name], atol=1e-6, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
