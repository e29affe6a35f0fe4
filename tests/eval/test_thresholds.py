"""Thresholds for groups: fitted on one evaluation, used by another, and as good as fairlearn's."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from eval.evaluations import evaluation, example, made
from eval.probing import Said
from luthier.core.artifact import Artifact
from luthier.core.errors import RecipeError
from luthier.core.store import Store
from luthier.eval.steps.evaluate import Evaluate
from luthier.eval.steps.thresholds import FitThresholds
from luthier.eval.task import Reply, read_held_out_task
from luthier.eval.thresholds import Constraint, ThresholdedModel, Thresholds, fit_thresholds


def people(seed: int, rows: int = 600) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Chances and truth of two groups, of which one is scored too low."""
    random = np.random.default_rng(seed)
    real = {"a": random.random(rows) < 0.6, "b": random.random(rows // 2) < 0.4}
    shift = {"a": 0.0, "b": -1.0}
    chances = {
        g: np.round(1 / (1 + np.exp(-(2 * real[g] - 1 + shift[g] + random.normal(size=len(real[g]))))), 6) for g in real
    }
    return chances, real


@pytest.mark.parametrize("constraint", ["demographic_parity", "equal_opportunity"])
def test_as_good_as_fairlearns(constraint: Constraint) -> None:
    """Its answers are mixtures of two thresholds, so rates and accuracy are compared within a few rows."""
    pytest.importorskip("fairlearn", reason="needs fairlearn (test group)")
    from fairlearn.postprocessing import ThresholdOptimizer
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
        """Scores that stand already."""

        def fit(self, rows: np.ndarray, real: np.ndarray) -> Given:
            self.classes_ = np.array([0, 1])
            return self

        def predict(self, rows: np.ndarray) -> np.ndarray:
            return np.asarray(rows[:, 0])

    chances, real = people(3)
    thresholds = fit_thresholds(chances, real, constraint)
    rows = np.concatenate([chances["a"], chances["b"]])[:, None]
    truth = np.concatenate([real["a"], real["b"]]).astype(int)
    group = np.repeat(["a", "b"], [len(real["a"]), len(real["b"])])
    name = {"demographic_parity": "demographic_parity", "equal_opportunity": "true_positive_rate_parity"}[constraint]
    peer = ThresholdOptimizer(
        estimator=Given(), constraints=name, objective="accuracy_score", prefit=False, predict_method="predict"
    )
    peer.fit(rows, truth, sensitive_features=group)
    shares = peer._pmf_predict(rows, sensitive_features=group)[:, 1]
    mine = np.concatenate([chances[g] >= thresholds[g] for g in ("a", "b")]).astype(float)

    def rate(given: np.ndarray, one: str) -> float:
        counted = (group == one) & ((truth == 1) | (constraint == "demographic_parity"))
        return float(given[counted].mean())

    def accuracy(given: np.ndarray) -> float:
        return float(np.where(truth == 1, given, 1 - given).mean())

    for one in ("a", "b"):
        assert rate(mine, one) == pytest.approx(rate(shares, one), abs=0.02)
    assert accuracy(mine) == pytest.approx(accuracy(shares), abs=0.01)
    assert abs(rate(mine, "a") - rate(mine, "b")) < 0.01
    same = np.concatenate([chances[g] >= 0.5 for g in ("a", "b")]).astype(float)
    assert abs(rate(same, "a") - rate(same, "b")) > 0.2


def test_a_rule_of_a_group_decides(store: Store) -> None:
    told = Thresholds(column="region", positive="yes", by_group={"north": 0.9, "south": 0.05})
    row = example("x", "yes", "yes", 0, region="north")
    reply = Reply(prediction="yes", scores={"yes": -0.2, "no": -1.7})
    assert told.applied(row, reply).prediction == "no"
    other = reply.scores and Reply(prediction="no", scores={"yes": -2.0, "no": -0.14})
    assert other is not None
    assert told.applied(row.model_copy(update={"meta": {"region": "south"}}), other).prediction == "yes"
    assert told.applied(row.model_copy(update={"meta": {"region": "west"}}), reply) is reply
    assert told.applied(row, Reply(prediction="yes")).prediction == "yes"
    eval_model = Said("tuned", lambda text: "yes")
    assert ThresholdedModel(eval_model, told).able == eval_model.able
    assert ThresholdedModel(eval_model, told).digest != eval_model.digest


def test_thresholds_of_an_evaluation_decide_the_next(store: Store, labels: Artifact, tuned: Artifact) -> None:
    first = made(store, Evaluate(data="data", model="tune", baselines=()), {"data": labels, "model": tuned})
    step = FitThresholds(evaluation="report", column="channel", positive="billing", min=5)
    found = made(store, step, {"evaluation": first})
    thresholds = Thresholds.of(found)
    assert set(thresholds.by_group) == {"mail", "phone", "web"}
    second = made(
        store,
        Evaluate(data="data", model="tune", baselines=(), thresholds="fair"),
        {"data": labels, "model": tuned, "thresholds": found},
    )
    frames = [pl.read_parquet(one.path("predictions.parquet")) for one in (first, second)]
    before, after = (frame.filter(pl.col("model") == "tuned") for frame in frames)
    assert before["scores"].to_list() == after["scores"].to_list()
    task = read_held_out_task(labels, "test", None)
    for row, scores, said in zip(task.examples, after["scores"], after["prediction"], strict=True):
        reply = Reply(prediction="?", scores=json.loads(scores))
        assert said == thresholds.applied(row, reply).prediction
    base_before, base_after = (frame.filter(pl.col("model") == "base") for frame in frames)
    assert base_before["prediction"].to_list() == base_after["prediction"].to_list()
    assert "decided by a threshold for each group" in " ".join(second.read_json("summary.json")["notes"])


def test_a_label_that_nobody_shall_get_is_given_to_nobody_however_sure(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sure = {"mail": np.array([1.0] * 4), "web": np.array([0.2, 0.3, 0.8, 0.9])}
    nobody = fit_thresholds(sure, {name: np.zeros(4, bool) for name in sure}, "demographic_parity")
    monkeypatch.setattr("luthier.eval.thresholds.fit_thresholds", lambda *told: nobody)
    report = evaluation(store, {"tuned": 0.9, "base": 0.5})
    step = FitThresholds(evaluation="report", column="channel", positive="billing", min=5)
    told = Thresholds.of(made(store, step, {"evaluation": report}))
    reply = Reply(prediction="billing", scores={"billing": 0.0, "delivery": -40.0, "account": -50.0})
    assert told.applied(example("x", "billing", "billing", 0, channel="mail"), reply).prediction == "delivery"


def test_what_cannot_be_is_refused(store: Store) -> None:
    report = evaluation(store, {"tuned": 0.9, "base": 0.5})
    with pytest.raises(RecipeError, match="no label is 'biling'"):
        made(store, FitThresholds(evaluation="report", column="channel", positive="biling"), {"evaluation": report})
    with pytest.raises(RecipeError, match="0 group"):
        made(store, FitThresholds(evaluation="report", column="chanel", positive="billing"), {"evaluation": report})
