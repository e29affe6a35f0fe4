"""What every influence method promises: a row's own copy is among its proponents, scores repeat and follow the states,
and it is documented."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from documented import undescribed
from luthier.core.artifact import Artifact
from luthier.core.component import components_by_kind
from luthier.core.step import StepContext
from luthier.tune.influence.method import EngineSettings, InfluenceMethod
from luthier.tune.influence.study import InfluenceStudy
from luthier.tune.objectives.classify import Classify
from luthier.tune.optimizers.muon import Muon
from luthier.tune.steps.tune import Tune
from tuning import TuneEnv, examples, make_env

KINDS = components_by_kind(InfluenceMethod)
STEP = Tune(
    data="data", batch_size=4, learning_rate=3e-3, dtype="float32", objective=Classify(head="sequence"), keep_states=2,
    epochs=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"), examples(8))


@pytest.fixture(scope="module")
def tuned(env: TuneEnv) -> Artifact:
    return env.tune(STEP)


def study(env: TuneEnv, model: Artifact, root: Path) -> InfluenceStudy:
    work = StepContext(
        name="influence", inputs={"data": env.data, "model": env.base}, folder=root, scratch=root / "scratch",
        recipe_dir=root, seed=3,
    )  # fmt: skip
    return InfluenceStudy(STEP, model, work, [examples(8)[3]])


@pytest.mark.matrix("ekfac", "adam", "replay")
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_row_teaches_itself_and_scores_repeat(kind: str, env: TuneEnv, tuned: Artifact, tmp_path: Path) -> None:
    method = InfluenceMethod.parse(kind)
    first, again = (method.score(study(env, tuned, tmp_path / str(at)), EngineSettings())[0] for at in range(2))
    assert first.shape == (8,)
    assert torch.equal(first, again)
    assert float(first[3]) > 0
    assert int((first > first[3]).sum()) <= 1


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_is_documented_and_tells_its_cost(kind: str) -> None:
    assert KINDS[kind].__doc__
    assert undescribed(KINDS[kind]) == []
    method = InfluenceMethod.parse(kind)
    assert method.count_readings(STEP, "sweep", 2) >= method.count_readings(STEP, "sweep", 1)
    other = STEP.model_copy(update={"optimizer": Muon()})
    assert not method.refuses(STEP)
    assert bool(method.refuses(other)) == (kind in ("adam", "replay"))
