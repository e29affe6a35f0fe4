"""Distillation over a whole vocabulary is TRL's generalised Jensen-Shannon loss: the same values and gradients."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.chat.tokenizer import ChatTokenizer
from luthier.models.load import open_folder
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import TokenRow, build_pack
from luthier.tune.objective import Teacher
from luthier.tune.objectives.distil import Distil
from tuning import TuneEnv, examples, make_env

pytest.importorskip("trl", reason="TRL is not installed: no comparison with its loss")
VOCABULARY = 400


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    folder: Path = tmp_path_factory.mktemp("shop")
    return make_env(folder)


def trl_loss(student: Any, teacher: Any, rows: list[TokenRow], beta: float, temperature: float) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.gkd import GKDTrainer

    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([torch.tensor(row.ids) for row in rows], True)
    seen = pad([torch.ones(len(row.ids), dtype=torch.int64) for row in rows], True)
    learnt = pad([torch.tensor(row.loss_weights) for row in rows], True)
    labels = torch.where(learnt > 0, ids, -100)[:, 1:]
    ours = student(input_ids=ids, attention_mask=seen).logits[:, :-1]
    with torch.no_grad():
        theirs = teacher(input_ids=ids, attention_mask=seen).logits[:, :-1]
    loss: torch.Tensor = GKDTrainer.generalized_jsd_loss(
        ours, theirs, labels=labels, beta=beta, temperature=temperature
    )
    return loss


@pytest.mark.parametrize(
    ("divergence", "given", "beta"),
    [("forward", None, 0.0), ("reverse", None, 1.0), ("jensen_shannon", 0.3, 0.3), ("jensen_shannon", None, 0.5)],
)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_loss_and_gradients_are_trls(
    env: TuneEnv, divergence: Any, given: float | None, beta: float, temperature: float
) -> None:
    objective = Distil(divergence=divergence, beta=given, temperature=temperature, top_k=VOCABULARY)
    rows = [
        row
        for one in objective.build_training_examples(examples(4), ChatTokenizer.load(env.base.folder))
        for row in one.rows
    ]
    student = open_folder(env.base.folder, torch.float64)
    teacher = open_folder(env.teacher.folder, torch.float64)
    ready = objective.ready(build_pack(rows), Teacher(teacher, VOCABULARY))
    loss = objective.loss(compute_pack_logprobs(student, ready), ready, None).total / objective.denominator(rows)
    loss.backward()  # type: ignore[no-untyped-call]
    ours = {name: one.grad.clone() for name, one in student.named_parameters()}
    student.zero_grad()
    wanted = trl_loss(student, teacher, rows, beta, temperature) * temperature**2
    wanted.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-7)
    for name, one in student.named_parameters():
        torch.testing.assert_close(ours[name], one.grad, msg=name, atol=1e-5, rtol=1e-5)  # norms are in fp32
