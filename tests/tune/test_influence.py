"""Influence on tiny models: engines equal explicit gradients, replay retraining, and EK-FAC its Fisher matrix."""

from __future__ import annotations

import random
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from explain.planted import EVIDENCE, planted_order
from luthier.chat.messages import Example, ExampleOrigin, Message, example_id
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, ModelError
from luthier.core.step import StepContext
from luthier.data.validate.confident_learning import find_label_errors
from luthier.models.text_classifier import predict_texts_out_of_fold
from luthier.tune.influence.fisher import FisherEstimate
from luthier.tune.influence.method import EngineSettings
from luthier.tune.influence.methods.adam import AdamInfluence
from luthier.tune.influence.methods.ekfac import Ekfac
from luthier.tune.influence.methods.nearest import Nearest
from luthier.tune.influence.methods.replay import Replay
from luthier.tune.influence.methods.tracin import TracIn
from luthier.tune.influence.significance import assess_harm, measure_row_effects
from luthier.tune.influence.study import InfluenceStudy
from luthier.tune.influence.training_replay import TrainingReplay
from luthier.tune.influence.weights import LossReader
from luthier.tune.objectives.classify import Classify
from luthier.tune.objectives.dpo import DpoObjective
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.full import FullFineTuning
from luthier.tune.techniques.lora import Lora
from models.architectures import Double
from tuning import TuneEnv, examples, make_env, pairs

QUICK: dict[str, Any] = {
    "data": "data", "batch_size": 6, "learning_rate": 3e-3, "dtype": "float32", "technique": Lora(r=2), "epochs": 1,
    "keep_states": 2,
}  # fmt: skip
ASKED = examples(14)[12:]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"), examples(12))


@pytest.fixture(scope="module")
def tuned(env: TuneEnv) -> Artifact:
    return env.tune(Tune(**QUICK))


def study(
    env: TuneEnv,
    model: Artifact,
    root: Path,
    step: Tune | None = None,
    dtype: torch.dtype = torch.float64,
    **settings: Any,
) -> InfluenceStudy:
    work = StepContext(
        name="influence", inputs={"data": env.data, "model": env.base}, folder=root, scratch=root / "scratch",
        recipe_dir=root, seed=3, kept=root / "kept",
    )  # fmt: skip
    asked = settings.pop("asked", ASKED)
    return InfluenceStudy(step or Tune(**QUICK), model, work, asked, dtype=dtype, **settings)


@pytest.fixture(autouse=True)
def doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models in float64 compute in it throughout."""
    once = LossReader.loss

    def loss(self: LossReader, pack: Any) -> Any:
        with Double() if next(self.model.parameters()).dtype == torch.float64 else nullcontext():
            return once(self, pack)

    monkeypatch.setattr(LossReader, "loss", loss)


def explicit(method: Any, about: InfluenceStudy) -> Tensor:
    """Scores by each row's own gradient."""
    scores = torch.zeros(len(about.queries), len(about.keys), dtype=torch.float64)
    for step, weights in method.weigh_states(about).items():
        state = about.open_state(step)
        preconditioner = method.precondition(about, state, EngineSettings())
        rows = torch.stack([about.reader.gradient(about.alone(about.rows_of([at]))) for at in range(len(about.keys))])
        asked = torch.stack([preconditioner.apply(about.mean_gradient(query)) for query in about.queries])
        scores += weights * (asked.double() @ rows.double().T)
    return scores


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.matrix("ekfac")
@pytest.mark.parametrize("method", [TracIn(), AdamInfluence(), Ekfac()], ids=["tracin", "adam", "ekfac"])
def test_sweep_and_index_are_products_of_explicit_gradients(
    env: TuneEnv, tuned: Artifact, tmp_path: Path, method: Any
) -> None:
    about = study(env, tuned, tmp_path, each=True)
    expected = explicit(method, about)
    assert expected.shape == (2, 12)
    assert distance(method.score(about, EngineSettings(readings=4)), expected) < 1e-10
    assert distance(method.score(about, EngineSettings(readings=2)), expected) < 1e-7
    index = EngineSettings(engine="index", dimensions=10**6)
    assert distance(method.score(about, index), expected) < 1e-10
    sketched = method.score(about, EngineSettings(engine="index", dimensions=2048))
    assert distance(sketched, expected) < 0.5
    whole = study(env, tuned, tmp_path / "whole", dtype=torch.float32)
    mean = method.score(whole, EngineSettings(readings=4))
    assert distance(mean, explicit(method, whole)) < 3e-4, "weights of this model are ten times the usual size"


def test_preference_pairs_are_rows(tmp_path: Path) -> None:
    rows = pairs(12)
    env = make_env(tmp_path, rows[:8])
    step = Tune(**{**QUICK, "batch_size": 4}, objective=DpoObjective())
    about = study(env, env.tune(step), tmp_path, step, asked=rows[8:])
    found = AdamInfluence().score(about, EngineSettings(readings=4))
    assert found.shape == (1, 8)
    assert distance(found, explicit(AdamInfluence(), about)) < 1e-10


@pytest.mark.parametrize("objective", ["sft", "classify"])
def test_replay_is_the_slope_of_retraining_by_a_rows_weight(tmp_path: Path, objective: str) -> None:
    env = make_env(tmp_path, examples(12))
    kind = {"objective": Classify(head="sequence")} if objective == "classify" else {}
    step = Tune(**{**QUICK, "epochs": 2, "learning_rate": 1e-3}, **kind)
    about = study(env, env.tune(step), tmp_path, step)
    (query,) = about.queries
    scores = Replay().score(about, EngineSettings(readings=4))[0]
    retrained = TrainingReplay(about)
    retrained.run(1 << 30)
    last = about.states.read(about.kept_steps[-1]).weights
    torch.testing.assert_close(
        retrained.end.weights.float(), about.reader.weights.gather(last).float(), rtol=1e-3, atol=1e-5
    )

    def loss_at(row: int, weight: float) -> float:
        again = TrainingReplay(about, {row: weight})
        again.run(1 << 30)
        about.reader.weights.set(again.end.weights)
        return about.mean_loss(query)

    for row in (0, 7):
        slope = (loss_at(row, 1.0001) - loss_at(row, 0.9999)) / 0.0002
        assert abs(-slope - float(scores[row])) <= 1e-5 * float(scores.abs().max()), (slope, scores[row])


def test_ekfac_is_the_fisher_matrix_in_its_own_basis(env: TuneEnv, tuned: Artifact, tmp_path: Path) -> None:
    """Eigenvalues are the diagonal of the explicit matrix in the basis, which is that of the factors."""
    about = study(env, tuned, tmp_path)
    about.open_state(about.kept_steps[-1])
    estimate = FisherEstimate(about, rows=12, sampled=False)
    assert not estimate.notes
    block = next(block for block in estimate.blocks() if block.in_basis is not None and bool(block.values.any()))
    rows = torch.stack([about.reader.gradient(packs)[block.span] for packs in estimate.packs])
    fisher = rows.T @ rows / about.objective.denominator(about.rows_of(range(12)))
    assert block.out_basis is not None
    assert block.in_basis is not None
    basis = torch.kron(block.out_basis, block.in_basis)
    expected = (basis.T @ fisher @ basis).diagonal()
    torch.testing.assert_close(block.values, expected)
    damped = basis @ torch.diag(1 / (block.values + 0.1 * block.values.mean())) @ basis.T
    preconditioner = Ekfac().precondition(about, about.open_state(about.kept_steps[-1]), EngineSettings())
    gradient = torch.zeros(about.reader.weights.size, dtype=torch.float64)
    gradient[block.span] = rows[0]
    sampled = preconditioner.apply(gradient)[block.span]
    assert sampled.shape == (damped @ rows[0]).shape
    twice = preconditioner.apply_root(preconditioner.apply_root(gradient))
    torch.testing.assert_close(twice, preconditioner.apply(gradient))


def test_a_killed_index_goes_on(env: TuneEnv, tuned: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.tune.influence.index.TOGETHER", 4)
    about = study(env, tuned, tmp_path)
    settings = EngineSettings(engine="index")
    once, read = type(about).rows_of, list[int]()

    def dying(self: InfluenceStudy, numbers: Any) -> Any:
        if len(numbers) == 1:
            read.extend(numbers)
            if len(read) == 7:
                raise KeyboardInterrupt
        return once(self, numbers)

    with monkeypatch.context() as patch:
        patch.setattr(InfluenceStudy, "rows_of", dying)
        with pytest.raises(KeyboardInterrupt):
            TracIn().score(about, settings)
    read.clear()
    monkeypatch.setattr(InfluenceStudy, "rows_of", lambda self, numbers: (read.extend(numbers), once(self, numbers))[1])
    found = TracIn().score(about, settings)
    assert read.count(5) > read.count(0), "rows that were written are not read alone again"
    whole = TracIn().score(study(env, tuned, tmp_path / "other"), settings)
    assert torch.equal(found, whole)


def test_what_is_gone_or_of_another_base_is_told(env: TuneEnv, tuned: Artifact, tmp_path: Path) -> None:
    other = env.tune(Tune(**{**QUICK, "technique": Lora(r=4)}))
    with pytest.raises(ModelError, match="of another base or technique"):
        TracIn().score(study(env, other, tmp_path), EngineSettings())
    about = study(env, tuned, tmp_path / "nan")
    weights = about.states.read(about.kept_steps[0]).weights
    next(iter(weights.values())).fill_(float("nan"))
    with pytest.raises(ModelError, match="a kept state is not finite"):
        about.reader.weights.load(weights)
    gone = study(env, tuned, tmp_path / "gone")
    gone.__dict__["numbers"] = dict.fromkeys(gone.keys[1:], 0)
    with pytest.raises(DataError, match="rows that its data no longer hold"):
        TracIn().score(gone, EngineSettings())


def test_nearest_finds_a_copy(env: TuneEnv, tuned: Artifact, tmp_path: Path) -> None:
    asked = [examples(12)[4]]
    for method in (Nearest(), Nearest(by="embeddings")):
        scores = method.score(study(env, tuned, tmp_path, asked=asked), EngineSettings())
        assert float(scores[0, 4]) > 0.99


def test_a_sweep_shares_prefixes(env: TuneEnv, tuned: Artifact, tmp_path: Path) -> None:
    about = study(env, tuned, tmp_path)
    alone = sum(len(row.ids) for row in about.rows_of(range(12)))
    assert sum(pack.tokens for pack in about.packs) < 0.7 * alone


@pytest.mark.matrix("adam")
@pytest.mark.parametrize("method", [TracIn(), AdamInfluence(), Ekfac()], ids=["tracin", "adam", "ekfac"])
def test_effects_on_each_question_row_add_up_to_the_score(
    env: TuneEnv, tuned: Artifact, tmp_path: Path, method: Any
) -> None:
    about = study(env, tuned, tmp_path)
    effects = measure_row_effects(method, about, [7, 2], EngineSettings())
    assert effects.shape == (2, len(ASKED))
    expected = explicit(method, about)[0, [7, 2]]
    assert distance(torch.from_numpy(effects.sum(1)), expected) < 1e-10


def test_harm_by_chance_is_told_from_harm() -> None:
    draw = numpy.random.default_rng(5)
    false, found, alarms = [], [], 0
    for number in range(60):
        effects = draw.normal(size=(300, 30)) * draw.exponential(size=(300, 1))
        effects[:6] -= 2 * effects[:6].std(1, keepdims=True)
        for own, is_null in ((effects, False), (draw.normal(size=(300, 30)), True)):
            worst = numpy.argsort(own.sum(1))[:15].tolist()
            test = assess_harm(worst, own[worst], questions=30, rows=300, seed=number)
            sure = [row for row, p in test.p_values.items() if p <= test.significance.level]
            assert test.significance.significant == len(sure)
            if is_null:
                alarms += bool(sure)
            else:
                false.append(sum(row >= 6 for row in sure) / max(1, len(sure)))
                found.append(sum(row < 6 for row in sure))
    assert numpy.mean(false) < 0.06
    assert numpy.mean(found) > 4
    assert alarms / 60 < 0.12


def test_what_cannot_be_tested_is_said() -> None:
    few = assess_harm([3, 1], None, questions=2, rows=50, seed=0)
    assert not few.p_values
    assert (
        few.significance.sentence == "Not tested against chance: 2 rows were asked about, and a test takes 6 at least."
    )
    whole = assess_harm([3], None, questions=20, rows=50, seed=0, why="replay scores the question as a whole")
    assert "as a whole" in whole.significance.sentence
    none = assess_harm([], None, questions=20, rows=50, seed=0)
    assert none.significance.sentence == "No row is far below the others."


@pytest.mark.slow
def test_more_wrong_labels_are_among_the_worst_than_by_confident_learning(tmp_path: Path) -> None:
    """The first of two words decides, and wrong labels name the second, which a bag of words cannot tell: confident
    learning finds few of them, and influence on held-out rows more."""
    count, found = 360, {"adam": 0, "confident learning": 0, "wrong": 0}
    for seed in range(2):
        draw = random.Random(seed)
        texts = [planted_order(draw) for _ in range(count + 200)]
        wrong = set(draw.sample(range(count), count // 20))
        names = sorted(set(EVIDENCE.values()))
        labels = [other if at in wrong else label for at, (_, label, other) in enumerate(texts)]
        rows = [label_row(text[0], label, at) for at, (text, label) in enumerate(zip(texts, labels, strict=True))]
        env = make_env(tmp_path / str(seed), rows[:count])
        step = Tune(
            **{
                **QUICK,
                "technique": FullFineTuning(),
                "batch_size": 12,
                "learning_rate": 2e-3,
                "epochs": 16,
                "keep_states": 4,
            },
            objective=Classify(head="sequence"),
        )
        work_in = tmp_path / f"influence-{seed}"
        about = study(env, env.tune(step), work_in, step, torch.float32, asked=rows[count:])
        scores = AdamInfluence().score(about, EngineSettings())[0]
        worst = [about.keys[at] for at in torch.argsort(scores, stable=True)[: count // 10].tolist()]
        found["adam"] += sum(rows[at].id in worst for at in wrong)
        codes = numpy.array([names.index(label) for label in labels[:count]])
        shares = predict_texts_out_of_fold([text[0] for text in texts[:count]], codes, seed=seed).probabilities
        doubt = shares[numpy.arange(count), codes] - shares.max(1) - find_label_errors(codes, shares)
        found["confident learning"] += len(wrong & set(numpy.argsort(doubt, kind="stable")[: count // 10].tolist()))
        found["wrong"] += len(wrong)
    assert found["adam"] > found["confident learning"], found
    assert found["adam"] > 3 * found["wrong"] / 10, "three times as many as by chance"


def label_row(text: str, label: str, line: int) -> Example:
    """A text with its class."""
    messages = (Message(role="user", content=text), Message(role="assistant", content=label))
    origin = ExampleOrigin(source="csv", file="rows.csv", line=line)
    key = example_id(messages, label, {}, line)
    return Example(id=key, origin=origin, kind="label", messages=messages, label=label)
