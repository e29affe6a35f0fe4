"""EK-FAC's scores are Kronfluence's, which reads rows by transformers, alone and unpadded, with modules of its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.core.artifact import Artifact
from luthier.tune.influence.method import EngineSettings
from luthier.tune.influence.methods.ekfac import Ekfac
from luthier.tune.objectives.classify import Classify
from luthier.tune.steps.tune import Tune
from models.architectures import Double
from tune.test_influence import distance, doubled, study
from tuning import TuneEnv, examples, make_env

pytest.importorskip("kronfluence", reason="Kronfluence is not installed: no comparison with its EK-FAC")
__all__ = ["doubled"]
ROWS = 12
KEYS_AND_VALUES = ("k_proj", "v_proj")
STEP = Tune(
    data="data", batch_size=6, learning_rate=3e-3, dtype="float32", technique="full", epochs=2, keep_states=1,
    objective=Classify(head="sequence"),
)  # fmt: skip


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"), examples(ROWS))


@pytest.fixture(scope="module")
def tuned(env: TuneEnv) -> Artifact:
    return env.tune(STEP)


def kronfluence_scores(model: Any, names: list[str], rows: list[Any], asked: list[Any], folder: Path) -> Tensor:
    """(queries, rows) with the Fisher matrix of the rows' own answers, damped by a tenth of its mean; modules on whose
    last position alone the loss depends are masked so, as EK-FAC here finds out by itself."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Answers(Task):
        def compute_train_loss(self, batch: Any, model: Any, sample: bool = False) -> Tensor:
            ids, label = batch
            with Double():
                logits = model(input_ids=ids, use_cache=False).logits
                return torch.nn.functional.cross_entropy(logits, label, reduction="sum")

        def compute_measurement(self, batch: Any, model: Any) -> Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return names

        def get_attention_mask(self, batch: Any) -> dict[str, Tensor]:
            ids, _ = batch
            last = torch.zeros_like(ids)
            last[:, -1] = 1
            return {name: last if name in ends else torch.ones_like(last) for name in names}

    def pairs(some: list[Any]) -> list[tuple[Tensor, Tensor]]:
        return [(torch.tensor(row.ids[:-1]), torch.tensor(row.ids[-1])) for row in some]

    above = f"model.layers.{model.config.num_hidden_layers - 1}."
    ends = [name for name in names if name == "score" or (name.startswith(above) and name[-6:] not in KEYS_AND_VALUES)]
    task, wide = Answers(), torch.float64
    analyzer = Analyzer("rows", prepare_model(model, task), task, cpu=True, output_dir=str(folder), disable_tqdm=True)
    kinds = {"activation_covariance_dtype": wide, "gradient_covariance_dtype": wide, "per_sample_gradient_dtype": wide}
    factors = FactorArguments(
        strategy="ekfac", use_empirical_fisher=True, eigendecomposition_dtype=wide, lambda_dtype=wide, **kinds
    )
    analyzer.fit_all_factors("own", pairs(rows), per_device_batch_size=1, factor_args=factors)
    analyzer.compute_pairwise_scores(
        "all", "own", pairs(asked), pairs(rows), per_device_query_batch_size=1, per_device_train_batch_size=1,
        score_args=ScoreArguments(
            damping_factor=None, per_sample_gradient_dtype=wide, precondition_dtype=wide, score_dtype=wide
        ),
    )  # fmt: skip
    found: Tensor = analyzer.load_pairwise_scores("all")["all_modules"]
    return found


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_ekfac_is_kronfluences(env: TuneEnv, tuned: Artifact, tmp_path: Path) -> None:
    about = study(env, tuned, tmp_path, STEP, each=True)
    about.open_state(about.kept_steps[-1])
    model = about.reader.model
    names = [name for name, module in model.named_modules() if type(module) is torch.nn.Linear]
    assert "score" in names
    other = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.removesuffix(".weight") in names)
    about.__dict__["reader"] = type(about.reader)(model, about.objective, about.reader.tokens)
    about.__dict__["open_state"] = about.states.read
    ours = Ekfac(fisher="empirical").score(about, EngineSettings(readings=4)) * ROWS
    rows = [about.rows_of([number])[0] for number in range(ROWS)]
    theirs = kronfluence_scores(other, names, rows, [query.rows[0] for query in about.queries], tmp_path / "k")
    assert distance(ours, theirs) < 1e-8
