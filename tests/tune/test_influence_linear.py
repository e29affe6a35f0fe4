"""Influence of a linear model in closed form: a sequence head alone is tuned, a softmax over states that stay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from luthier.models.packing.logprobs import compute_pack_states
from luthier.tune.influence.fisher import EkfacPreconditioner, FisherEstimate
from luthier.tune.influence.method import EngineSettings
from luthier.tune.influence.methods.ekfac import Ekfac
from luthier.tune.influence.methods.replay import Replay
from luthier.tune.influence.study import InfluenceStudy
from luthier.tune.influence.training_replay import TrainingReplay
from luthier.tune.objectives.classify import Classify
from luthier.tune.optimizers.adamw import AdamW
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.layers import PartialFineTuning
from models.architectures import Double
from tune.test_influence import distance, doubled, study
from tuning import examples, make_env

__all__ = ["doubled"]
ROWS = 9
EPS = 1e7
"""So far above any gradient, AdamW's step is the gradient times the rate over this: plain descent."""
CURVATURE = 16.0
"""What weight decay adds to the curvature: near the largest eigenvalue, so that descent converges soon."""
SHRINK = 0.4
"""What a step takes of a weight."""
RIDGE: dict[str, Any] = {
    "data": "data", "batch_size": ROWS, "dtype": "float32", "keep_states": 1, "epochs": 30, "warmup_ratio": 0.0,
    "lr_scheduler": "constant", "max_grad_norm": None, "learning_rate": SHRINK * EPS / CURVATURE,
    "technique": PartialFineTuning(last=0), "objective": Classify(head="sequence"),
    "optimizer": AdamW(betas=(0.0, 0.0), eps=EPS, weight_decay=CURVATURE / EPS),
}  # fmt: skip


class LinearModel(NamedTuple):
    """The head and the states that it reads, all in float64."""

    states: Tensor
    """(rows, width)."""
    labels: Tensor
    """(rows,)."""
    asked: Tensor
    """(width,) that of the question."""
    answer: int

    def probabilities(self, weights: Tensor) -> Tensor:
        """(rows, classes)."""
        return torch.softmax(self.states @ weights.T, -1)

    def gradients(self, weights: Tensor) -> Tensor:
        """(rows, P) of each row's loss."""
        errors = self.probabilities(weights) - torch.eye(len(weights), dtype=weights.dtype)[self.labels]
        return torch.einsum("nk,nd->nkd", errors, self.states).flatten(1)

    def query_gradient(self, weights: Tensor) -> Tensor:
        """(P,) of the question's loss."""
        error = torch.softmax(weights @ self.asked, -1)
        error[self.answer] -= 1
        return torch.outer(error, self.asked).flatten()

    def curvature(self, weights: Tensor) -> Tensor:
        """(P, P) the second derivative of the mean loss, which for a linear model is its Fisher matrix."""
        shares = self.probabilities(weights)
        spread = torch.diag_embed(shares) - shares[:, :, None] * shares[:, None]
        found = torch.einsum("nkl,nd,ne->kdle", spread, self.states, self.states) / len(self.states)
        size = weights.numel()
        return found.reshape(size, size)


class Linear(NamedTuple):
    about: InfluenceStudy
    model: LinearModel
    classes: int


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Linear:
    root = tmp_path_factory.mktemp("linear")
    env = make_env(root, examples(ROWS))
    step = Tune(**RIDGE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartialFineTuning, "refuses", lambda *own: "")  # that nothing of the base moves is wanted here
        about = study(env, env.tune(step), root, step, asked=examples(ROWS + 1)[ROWS:])
        assert list(about.reader.weights.moving) == ["score.weight"]
    with torch.no_grad(), Double():
        packs = [about.alone(rows)[0] for rows in (*(about.rows_of([at]) for at in range(ROWS)), about.queries[0].rows)]
        states = torch.cat([compute_pack_states(about.reader.model, pack) for pack in packs])
    labels = torch.cat([pack.targets for pack in packs])
    model = LinearModel(states[:-1], labels[:-1], states[-1], int(labels[-1]))
    return Linear(about, model, about.reader.weights.size // states.shape[1])


@pytest.mark.slow
def test_replay_is_the_inverse_hessian_where_a_ridge_converged(linear: Linear) -> None:
    """At the minimum, the weights move by the inverse of the curvature times what a row's weight changes in the mean
    gradient. What is left is what descent has not yet closed (0.6 to the 30th: 2e-7) and |gradient| / EPS."""
    about, model, classes = linear
    scores = Replay().score(about, EngineSettings(readings=4))[0]
    weights = TrainingReplay(about)
    weights.run(1 << 30)
    end = weights.end.weights.view(classes, -1)
    gradients = model.gradients(end)
    torch.testing.assert_close(gradients.mean(0), -CURVATURE * end.flatten(), rtol=1e-5, atol=1e-7)
    hessian = model.curvature(end) + CURVATURE * torch.eye(end.numel(), dtype=end.dtype)
    assert float(torch.linalg.eigvalsh(hessian).max()) * SHRINK / CURVATURE < 2, "descent converges"
    changes = (gradients - gradients.mean(0)) / ROWS
    expected = torch.linalg.solve(hessian, model.query_gradient(end)) @ changes.T
    assert distance(scores, expected) < 1e-5


def exact_fisher(about: InfluenceStudy, classes: int) -> FisherEstimate:
    """In place of drawn answers every class: so many times the expected matrix where all are equally likely."""
    estimate = FisherEstimate(about, rows=ROWS, sampled=False)
    estimate.packs = [
        [replace(pack, targets=torch.full_like(pack.targets, label))]
        for packs in estimate.packs
        for pack in packs
        for label in range(classes)
    ]
    return estimate


def test_ekfac_is_the_inverse_fisher_matrix_where_that_is_a_product(linear: Linear) -> None:
    """With a head at zero all rows have the same probabilities, so that the Fisher matrix, which for a linear model is
    the Hessian, is the product of its two factors: EK-FAC leaves nothing out."""
    about, model, classes = linear
    about.reader.weights.set(torch.zeros(about.reader.weights.size, dtype=torch.float64))
    zero = about.reader.weights.get().view(classes, -1)
    fisher, query = model.curvature(zero), about.mean_gradient(about.queries[0])
    torch.testing.assert_close(query, model.query_gradient(zero))
    for damping in (0.1, 3.0):
        damped = fisher + damping * fisher.diagonal().mean() * torch.eye(len(fisher), dtype=fisher.dtype)
        found = EkfacPreconditioner(exact_fisher(about, classes).blocks(), damping).apply(query)
        found *= classes
        assert distance(found, torch.linalg.solve(damped, query)) < 1e-9


def test_ekfac_foresees_leaving_a_row_out_of_a_converged_ridge(linear: Linear) -> None:
    """Damped by the weight decay, EK-FAC is one Newton step from the minimum, but for the answers that it draws, one a
    row, and for probabilities that differ between rows: both change the curvature of the loss, a part of the damped."""
    about, model, classes = linear
    about.open_state(about.kept_steps[-1])
    end = about.reader.weights.get().view(classes, -1)
    fisher = model.curvature(end)
    hessian = fisher + CURVATURE * torch.eye(len(fisher), dtype=fisher.dtype)
    newton = torch.linalg.solve(hessian, model.query_gradient(end)) @ model.gradients(end).T / ROWS
    damping = CURVATURE / float(fisher.diagonal().mean())
    scores = Ekfac(damping=damping).score(about, EngineSettings(readings=4))[0]
    assert distance(scores, newton) < 0.2, "0.15 with these draws; 0.35 with no curvature of the loss at all"
