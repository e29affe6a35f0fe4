"""The gradient of a step is the same however its rows are split, packed or ordered, and equals plain autograd's.

Rows are read by the training process itself: there are no data workers whose number could matter.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from luthier.chat.tokenizer import ChatTokenizer
from luthier.models.kernels.lora import install_fused_lora
from luthier.models.load import open_folder
from luthier.models.packing.logprobs import detect_forward_mode
from luthier.models.packing.pack import TokenRow
from luthier.tune.dataset.tokenized import TokenizedDataset
from luthier.tune.objective import PreparedBatchSource
from luthier.tune.objectives.sft import Sft
from luthier.tune.optimizers.adamw import AdamW
from luthier.tune.technique import Technique
from luthier.tune.techniques.full import FullFineTuning
from luthier.tune.techniques.lora import Lora
from luthier.tune.training.schedule import DECAY, BatchSampler
from luthier.tune.training.trainer import Trainer, TrainingArguments
from models.architectures import Double
from tuning import TuneEnv, examples, make_env

CLOSE = {"atol": 1e-12, "rtol": 1e-8}
TECHNIQUES = [Lora(r=4), FullFineTuning()]
AVERAGES: tuple[Literal["token", "row"], ...] = ("token", "row")


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


class TinyTraining:
    """A tiny model in float64 with training examples, whose gradient can be asked for."""

    def __init__(self, env: TuneEnv, folder: Path, technique: Technique, average: Literal["token", "row"]) -> None:
        objective = Sft(average=average)
        taught = objective.build_training_examples(examples(10), ChatTokenizer.load(env.base.folder))
        self.dataset = TokenizedDataset.write(folder, taught, "one")
        self.model: Any = technique.adapt(open_folder(env.base.folder, torch.float64), 1).double()
        for name, value in self.model.named_parameters():
            if "lora_B" in name:  # at zero, A would have no gradient
                value.data.normal_(generator=torch.Generator().manual_seed(len(name)), std=0.02)
        install_fused_lora(self.model)
        self.rows = [row for number in range(len(taught)) for row in self.dataset.rows(number)]
        self.sampler = BatchSampler(seed=0, count=len(self.dataset), epochs=1, batch_size=10)
        self.objective = objective
        self.source = PreparedBatchSource(self.dataset, self.sampler, objective, lambda rows: [])

    def gradient(self, rows: Sequence[TokenRow], tokens: int) -> tuple[float, dict[str, torch.Tensor]]:
        manner = TrainingArguments(
            rate=1.0, schedule="constant", warmup_steps=0, decay=DECAY, optimizer=AdamW(), clip=None,
            max_tokens_per_microbatch=tokens, rate_of=lambda name: 1.0,
        )  # fmt: skip
        training = Trainer(self.model, self.objective, self.source, self.sampler, manner, None)
        with Double():
            loss = training.gradient(list(rows), self.objective.denominator(rows)).loss
        return loss, {name: value.clone() for name, value in training._updater._sums.items()}

    def by_autograd(self) -> tuple[float, dict[str, torch.Tensor]]:
        """Each row alone through transformers' own forward, with the definition of the loss."""
        total, weight = torch.zeros((), dtype=torch.float64), 0.0
        for row in self.rows:
            ids = torch.tensor([row.ids])
            with Double():
                logps = torch.log_softmax(self.model(input_ids=ids).logits[0], -1)
            for at in row.targets:
                total = total - row.loss_weights[at] * logps[at - 1, row.ids[at]]
                weight += row.loss_weights[at]
        (total / weight).backward()  # type: ignore[no-untyped-call]
        moving = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        found = {name: value.grad.clone() for name, value in moving.items()}
        self.model.zero_grad()
        return float(total.detach() / weight), found


def same(one: tuple[float, dict[str, torch.Tensor]], other: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-10)
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        torch.testing.assert_close(value, other[1][name], **CLOSE)
        assert value.abs().max() > 0, name


@pytest.mark.matrix
@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("technique", TECHNIQUES, ids=["lora", "full"])
def test_the_gradient_is_the_same_however_rows_are_read(
    env: TuneEnv, tmp_path: Path, technique: Technique, average: Literal["token", "row"]
) -> None:
    training = TinyTraining(env, tmp_path / "examples", technique, average)
    rows = training.rows
    whole = training.gradient(rows, 4096)
    for tokens in (400, 130, 90, 1):  # fewer tokens at once, down to every row alone: nothing is shared
        same(training.gradient(rows, tokens), whole)
    mixed = random.Random(1).sample(rows, len(rows))
    same(training.gradient(mixed, 4096), whole)
    same(training.gradient(mixed, 90), whole)
    same(training.by_autograd(), whole)


def test_padded_reading_has_the_same_gradient(env: TuneEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = TinyTraining(env, tmp_path / "examples", Lora(r=4), "token")
    rows = training.rows
    whole = training.gradient(rows, 4096)
    how = detect_forward_mode(training.model)
    assert how.packed
    monkeypatch.setattr(
        "luthier.models.packing.logprobs.detect_forward_mode",
        lambda model: type(how)(packed=False, why="", head=how.head),
    )
    same(training.gradient(rows, 130), whole)


def test_a_mean_of_means_would_be_another_gradient(env: TuneEnv, tmp_path: Path) -> None:
    training = TinyTraining(env, tmp_path / "examples", Lora(r=4), "token")
    rows = training.rows
    long = [row for row in rows if len(row.targets) == max(len(row.targets) for row in rows)]
    short = [row for row in rows if row not in long]
    assert short
    _, whole = training.gradient(rows, 4096)
    halves = [training.gradient(part, 4096)[1] for part in (long, short)]
    assert any(not torch.allclose((halves[0][name] + halves[1][name]) / 2, whole[name], **CLOSE) for name in whole)
