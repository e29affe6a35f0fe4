"""One step of plain PEFT under transformers' own loss, rows padded: the same loss and gradients in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.chat.tokenizer import ChatTokenizer
from luthier.models.kernels.lora import install_fused_lora
from luthier.models.load import open_folder
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import TokenRow, build_packs
from luthier.models.quiet import silence_peft_warnings
from luthier.tune.objectives.sft import Sft
from luthier.tune.optimizers.adamw import AdamW
from luthier.tune.technique import Technique
from luthier.tune.techniques.ia3 import Ia3
from luthier.tune.techniques.lora import Lora
from luthier.tune.techniques.p_tuning import PTuning
from luthier.tune.techniques.prefix import PrefixTuning
from luthier.tune.techniques.prompt import PromptTuning
from luthier.tune.training.mixed_precision import MixedPrecisionOptimizer, OptimizerSettings
from models.architectures import Double
from tuning import TuneEnv, examples, make_env

TECHNIQUES: list[Technique] = [
    Lora(r=4, use_rslora=True),
    Lora(r=4, use_dora=True),
    Ia3(),
    PromptTuning(num_virtual_tokens=6),
    PTuning(num_virtual_tokens=6, encoder_hidden_size=8),
    PrefixTuning(num_virtual_tokens=6),
    PrefixTuning(num_virtual_tokens=6, init="random", encoder_hidden_size=8),
]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def adapted(env: TuneEnv, technique: Technique) -> Any:
    """The technique's model in float64, every adapter moved off its start."""
    with silence_peft_warnings():
        model = technique.adapt(open_folder(env.base.folder, torch.float32), 1).double().eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def in_plain_peft(model: Any, rows: list[TokenRow]) -> Tensor:
    """The loss of PEFT's own forward over padded rows with labels."""
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([torch.tensor(list(row.ids)) for row in rows], batch_first=True)
    seen = pad([torch.ones(len(row.ids), dtype=torch.int64) for row in rows], batch_first=True)
    learnt = pad([torch.tensor([float(weight) for weight in row.loss_weights]) for row in rows], batch_first=True)
    loss: Tensor = model(input_ids=ids, attention_mask=seen, labels=ids.masked_fill(learnt == 0, -100)).loss
    return loss


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda one: "-".join(map(str, one.settings().values())))
def test_loss_and_gradients_are_pefts(env: TuneEnv, technique: Technique) -> None:
    objective = Sft()
    dataset = objective.build_training_examples(examples(6), ChatTokenizer.load(env.base.folder))
    rows = [row for example in dataset for row in example.rows]
    plain, model = adapted(env, technique), adapted(env, technique)
    with Double(), silence_peft_warnings():
        wanted = in_plain_peft(plain, rows)
        install_fused_lora(model)
        parts = [
            objective.loss(compute_pack_logprobs(model, part), part, None).total for part in build_packs(rows, 120)
        ]
        found = torch.stack(parts).sum() / objective.denominator(rows)
        torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)
        theirs, ours = gradients(plain, wanted), gradients(model, found)
    assert ours.keys() == theirs.keys()
    assert ours
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    ("technique", "decay"),
    [(Lora(r=4, loraplus_lr_ratio=16.0), 0.1), (Lora(r=4, loraplus_lr_ratio=16.0, use_dora=True), 0.0)],
    ids=["lora", "dora"],
)
def test_lora_plus_moves_each_weight_as_pefts_does(env: TuneEnv, technique: Lora, decay: float) -> None:
    """By the same gradients to the same weights, also where the state was saved and taken up on the way."""
    from peft.optimizers import create_loraplus_optimizer

    own, plain = adapted(env, technique), adapted(env, technique)
    settings = OptimizerSettings(optimizer=AdamW(weight_decay=decay), clip=None, rate_of=technique.rate_of)
    updater = MixedPrecisionOptimizer(own, settings)
    theirs = create_loraplus_optimizer(
        plain, torch.optim.AdamW, lr=1e-2, loraplus_lr_ratio=16.0, loraplus_weight_decay=decay
    )
    moving = {name: one for name, one in plain.named_parameters() if one.requires_grad}
    for step in range(4):
        gradients = {name: torch.randn_like(one, generator=_dice(step)) for name, one in moving.items()}
        if step == 2:
            kept, updater = updater.state(), MixedPrecisionOptimizer(own, settings)
            updater.restore(kept)
        updater.gather(list(gradients.values()))
        updater.update(1e-2, updater.norm())
        for name, one in moving.items():
            one.grad = gradients[name]
        theirs.step()
    for name, value in own.named_parameters():
        if value.requires_grad:
            torch.testing.assert_close(value, moving[name], atol=1e-12, rtol=1e-12, msg=name)


def _dice(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
