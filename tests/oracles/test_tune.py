"""One step of TRL's supervised fine-tuning: the same loss and the same gradients on the same rows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.models.logprobs import logprobs
from luthier.models.lora_product import one_product
from luthier.models.pack import Row, pack
from luthier.text.ids import Text
from luthier.tune.objectives.sft import Sft
from luthier.tune.technique import Technique
from luthier.tune.techniques.full import Full
from luthier.tune.techniques.lora import Lora
from tuning import Bench, bench, examples

pytest.importorskip("trl", reason="TRL is not installed: no comparison with its loss")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tmp_path_factory.mktemp("shop"))


def adapted(shop: Bench, technique: Technique) -> Any:
    from luthier.models.load import open_folder

    model = technique.adapt(open_folder(shop.base.folder, torch.float32), 1)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return model


def trl_step(model: Any, rows: list[Row], folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the first batch of TRL's trainer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other people's libraries say of one another
        from datasets import Dataset
        from transformers import AutoTokenizer
        from trl import SFTConfig, SFTTrainer

        table = [{"input_ids": list(row.ids), "completion_mask": [int(w > 0) for w in row.learnt]} for row in rows]
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


@pytest.mark.parametrize("technique", [Full(), Lora(r=4)], ids=["full", "lora"])
def test_loss_and_gradients_are_trls(shop: Bench, technique: Technique, tmp_path: Path) -> None:
    objective = Sft()
    lessons = objective.lessons(examples(6), Text.load(shop.base.folder))
    rows = [row for lesson in lessons for row in lesson.rows]
    wanted, wanted_gradients = trl_step(adapted(shop, technique), rows, tmp_path)
    model = adapted(shop, technique)
    one_product(model)
    made = pack(rows)
    loss = objective.loss(logprobs(model, made), made, None).total / objective.denominator(rows)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(wanted, abs=1e-6)
    ours = {name: one.grad for name, one in model.named_parameters() if one.requires_grad}
    assert ours.keys() == wanted_gradients.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, wanted_gradients[name], atol=1e-6, rtol=1e-4, msg=name)
