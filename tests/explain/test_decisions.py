"""Label sets, counterfactual edits and rules: oracles, simulations, steps with gates, faults."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from endpoint import serving
from luthier.artifacts.decisions import (
    COUNTERFACTUALS,
    LABEL_SETS,
    ConformalSummary,
    CounterfactualSummary,
    SurrogateSummary,
)
from luthier.chat.messages import Message
from luthier.cli.app import run_command
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, ModelError
from luthier.core.store import Store
from luthier.explain.decisions.classifier import LabelScorer
from luthier.explain.decisions.counterfactuals import EditLimits, find_counterfactual, find_label_words
from luthier.explain.decisions.label_sets import (
    ConformalSettings,
    LabelScores,
    fit_label_sets,
    split_rows,
)
from luthier.explain.decisions.surrogate import SurrogateSettings, TextsWithLabels, fit_surrogate
from luthier.metrics.conformal import (
    ConformalScorer,
    bound_coverage,
    calibrate,
    compute_threshold,
    select_label_set,
    select_labels,
)
from luthier.models.sources.endpoint import EndpointModelSource
from luthier.recipe.locate import CommandTarget, find_artifact
from luthier.recipe.workspace import Workspace
from luthier.tune.objectives.reward import RewardObjective
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from luthier.tune.techniques.plain import PlainTechnique
from models.making import make_base
from tiny_models import tickets, write_csv
from tuning import TuneEnv, examples, make_env, pairs

RECIPE = """luthier: 1
name: decide
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
    split: {validation: 0.25, test: 0.25}
  words: {kind: tune, data: data, technique: plain}
  sets: {kind: conformal, data: data, model: words, level: 0.8, by_class: true}
  edits: {kind: counterfactuals, data: data, model: words, limit: 6}
  rules: {kind: surrogate, data: data, model: words, limit: 200, min_rows: 3}
  covered: {kind: gate, explanation: sets, rules: [conformal.coverage >= 0.5, conformal.size <= 3]}
  flipped: {kind: gate, explanation: edits, rules: [counterfactuals.edits <= 6]}
  faithful: {kind: gate, explanation: rules, rules: [surrogate.fidelity >= 0.3]}
"""


def simulate(draw: Any, rows: int, labels: int = 4) -> tuple[Any, Any]:
    """Probabilities of a model that is too sure, and right labels that follow other ones."""
    logits = draw.normal(size=(rows, labels)) * 1.5 + np.linspace(1, 0, labels)
    true = np.exp(logits)
    true /= true.sum(1, keepdims=True)
    sure = np.exp(2.5 * logits)
    sure /= sure.sum(1, keepdims=True)
    truth = (true.cumsum(1) > draw.random((rows, 1))).argmax(1)
    return sure, truth


@pytest.mark.parametrize("kind", ["lac", "aps", "raps"])
@pytest.mark.parametrize("by_class", [False, True])
def test_coverage_is_kept_over_many_calibrations(kind: Any, by_class: bool) -> None:
    draw = np.random.default_rng(3)
    scorer = ConformalScorer(kind, 0.05, 1)
    covered, of_class = [], []
    for _ in range(200):
        known, truth = simulate(draw, 150)
        thresholds = calibrate(scorer.score(known), truth, 0.9, by_class=by_class)
        fresh, answers = simulate(draw, 200)
        held = select_labels(scorer.score(fresh), thresholds)[np.arange(200), answers]
        covered.append(held.mean())
        of_class.append([held[answers == label].mean() for label in range(4)])
    error = np.std(covered) / math.sqrt(len(covered))
    assert 0.9 - 3 * error < np.mean(covered) < (0.97 if by_class else 0.93)
    worst = np.mean(of_class, axis=0).min()
    assert worst > 0.9 - 0.015 if by_class else worst < 0.89  # without classes, the rarest pays


def test_thresholds_and_bounds_are_the_textbooks() -> None:
    scores = np.arange(1, 20) / 20
    assert compute_threshold(scores, 0.9) == scores[17]  # ceil(20 * .9) = 18th
    assert compute_threshold(scores[:8], 0.9) == math.inf
    probabilities = np.array([[0.5, 0.3, 0.2]])
    np.testing.assert_allclose(ConformalScorer("lac").score(probabilities), [[0.5, 0.7, 0.8]])
    np.testing.assert_allclose(ConformalScorer("aps").score(probabilities), [[0.5, 0.8, 1.0]])
    np.testing.assert_allclose(ConformalScorer("raps", 0.1, 1).score(probabilities), [[0.5, 0.9, 1.2]])
    draw = np.random.default_rng(0)
    levels = [(draw.random(4000) <= np.sort(draw.random(100))[90]).mean() for _ in range(400)]
    low, high = bound_coverage(100, 0.9)
    assert 0.85 < np.mean([low <= level <= high for level in levels]) < 0.95


def scored(draw: Any, rows: int, start: int = 0) -> LabelScores:
    probabilities, truth = simulate(draw, rows, 3)
    return LabelScores([str(start + at) for at in range(rows)], truth, np.log(probabilities))


def test_sets_of_rows_are_summarized() -> None:
    draw = np.random.default_rng(1)
    rows = scored(draw, 300), scored(draw, 200, 300)
    summary, sets = fit_label_sets(("m", "d"), ("a", "b", "c"), rows, ConformalSettings(by_class=True))
    assert len(sets) == summary.rows == 200
    assert summary.measures["coverage"].value == np.mean([one.reference in one.labels for one in sets])
    assert summary.measures["single_accuracy"].value > summary.measures["accuracy"].value
    assert sum(summary.sizes.values()) == 200
    for one, row in list(zip(sets, rows[1].log_scores, strict=True))[:20]:
        assert set(select_label_set(summary, row.tolist())) == set(one.labels)
    assert "keeps the promised 90%" in summary.sentence
    few, _ = fit_label_sets(("m", "d"), ("a", "b", "c"), (scored(draw, 5), rows[1]), ConformalSettings())
    assert few.measures["size"].value == 3
    assert "stands in every set" in few.notes[0]
    halves = split_rows(rows[0])
    assert {*halves[0].ids, *halves[1].ids} == {*rows[0].ids}
    assert len(halves[0].ids) == len(halves[1].ids) == 150
    with pytest.raises(DataError, match="no rows to calibrate"):
        fit_label_sets(("m", "d"), ("a", "b", "c"), (scored(draw, 0), rows[1]), ConformalSettings())


class CountingModel:
    """Says `spam` where enough of its words are there, else `ham`; counts what it reads."""

    labels = ("ham", "spam")

    def __init__(self, words: Sequence[str], needed: int) -> None:
        self.words, self.needed, self.read = words, needed, 0

    def compute_log_scores(self, conversations: Sequence[Any]) -> Any:
        self.read += len(conversations)
        counts = [sum(word in messages[-1].content.split() for word in self.words) for messages, _ in conversations]
        return np.array([[float(self.needed), count + 0.5] for count in counts])


def flipped(model: CountingModel, text: str, **more: Any) -> Any:
    told = (Message(role="system", content="free money now"), Message(role="user", content=text))
    return find_counterfactual(model, told, **more)  # type: ignore[arg-type]


def test_the_fewest_edits_are_found_and_each_is_needed() -> None:
    text = "get free money now or win a prize today"
    one = flipped(CountingModel(["free", "money", "now"], 3), text)
    assert (one.label, one.flipped_to) == ("spam", "ham")
    assert len(one.edits) == 1
    assert one.minimal
    assert one.edits[0].label_without == "spam"
    two = flipped(CountingModel(["free", "money", "now", "win"], 3), text)
    assert {edit.before for edit in two.edits} <= {"free", "money", "now", "win"}
    assert len(two.edits) == 2
    assert two.minimal
    assert {edit.label_without for edit in two.edits} == {"spam"}
    assert len(two.edited.split()) == len(text.split()) - 2
    adds = CountingModel(["free", "money"], 2)
    other = flipped(adds, "please call me", substitutes={"spam": ["free", "money"], "ham": ["call"]})
    assert other.flipped_to == "spam"
    assert sorted(edit.after for edit in other.edits) == ["free", "money"]
    assert other.texts_read == adds.read  # no variant is read twice
    none = flipped(CountingModel(["free", "money", "now"], 1), text, limits=EditLimits(1, 0))
    assert none.flipped_to == ""
    assert none.edits == ()
    with pytest.raises(DataError, match="no word"):
        flipped(adds, " ")


def test_rules_are_recovered_and_measured() -> None:
    draw = np.random.default_rng(2)
    filler = ["the", "order", "was", "please", "today", "with", "help", "about"]

    def texts(rows: int) -> TextsWithLabels:
        told = [" ".join(draw.choice([*filler, "refund", "late"], 6)) for _ in range(rows)]
        says = ["billing" if "refund" in text else "delivery" if "late" in text else "other" for text in told]
        return TextsWithLabels(told, says)

    summary = fit_surrogate(("m", "d"), texts(300), texts(150), SurrogateSettings(words=1))
    assert summary.measures["fidelity"].value == 1
    assert summary.measures["coverage"].value == 1
    assert summary.measures["gain"].low > 0
    assert {(rule.has, rule.lacks, rule.label) for rule in summary.rules} == {
        (("refund",), (), "billing"),
        (("late",), ("refund",), "delivery"),
        ((), ("refund", "late"), "other"),
    } or {rule.label for rule in summary.rules} == {"billing", "delivery", "other"}
    assert sum(rule.rows for rule in (*summary.rules, *summary.others)) == 150
    noise = texts(300)._replace(labels=draw.choice(["a", "b"], 300).tolist())
    poor = fit_surrogate(("m", "d"), noise, texts(100)._replace(labels=draw.choice(["a", "b"], 100).tolist()))
    assert poor.measures["gain"].low <= 0
    assert not poor.rules or "NOT clearly more" in poor.sentence
    flat = fit_surrogate(("m", "d"), noise._replace(labels=["a"] * 300), noise)
    assert [rule.condition for rule in flat.rules] == ["always"]
    assert "of every text" in flat.notes[0]
    assert flat.measures["gain"].value == 0
    with pytest.raises(DataError, match="too few"):
        fit_surrogate(("m", "d"), TextsWithLabels(["a"], ["b"]), noise)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decide")
    write_csv(folder / "tickets.csv", tickets(200))
    (folder / "recipe.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LUTHIER_CACHE", str(folder / "cache"))
        assert run_command(["run", "recipe.yaml"]) in (0, 3)
    return folder


def made(name: str) -> Artifact:
    return find_artifact(CommandTarget(Workspace.open_current(), f"recipe.yaml:{name}")).artifact


def test_steps_report_and_gates(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LUTHIER_CACHE", str(folder / "cache"))
    sets = ConformalSummary.read(made("sets"))
    assert len(made("sets").path(LABEL_SETS).read_text().splitlines()) == sets.rows
    assert {threshold.label for threshold in sets.thresholds} == {*sets.labels}
    edits = CounterfactualSummary.read(made("edits"))
    assert len(made("edits").path(COUNTERFACTUALS).read_text().splitlines()) == edits.rows == 6
    assert all(one.minimal for one in edits.counterfactuals if one.flipped_to)
    rules = SurrogateSummary.read(made("rules"))
    assert rules.measures["fidelity"].low <= rules.measures["fidelity"].value
    page = (folder / ".luthier" / "reports" / "decide.html").read_text()
    for title in ("What flips a label", "Rules that stand for the model", "Label sets"):
        assert title in page
    for name in ("sets", "edits", "rules"):
        capsys.readouterr()
        assert run_command(["show", f"recipe.yaml:{name}"]) == 0
        assert "says" in capsys.readouterr().out
    assert run_command(["report", "recipe.yaml", "--format", "markdown"]) == 0
    assert "Rules that stand for the model" in capsys.readouterr().out
    text = (folder / "recipe.yaml").read_text()
    (folder / "other.yaml").write_text(text.replace("conformal.size <= 3", "surrogate.gain > 0"))
    assert run_command(["plan", "other.yaml"]) == 2


def test_language_models_and_heads_name_labels(tmp_path: Path) -> None:
    env = make_env(tmp_path)
    model = LabelScorer(env.base, env.data)
    assert set(model.labels) == {"account", "billing", "delivery"}
    rows = examples(3)
    shares = model.compute_probabilities([(row.messages[:-1], ()) for row in rows])
    np.testing.assert_allclose(shares.sum(1), 1)
    words = find_label_words(examples(48), model.labels, 4)
    found = find_counterfactual(model, rows[0].messages[:-1], substitutes=words, limits=EditLimits(2, 2))
    assert found.words == len(rows[0].messages[1].content.split())
    if found.flipped_to:
        assert found.minimal
    plain = env.classify(Tune(data="data", technique=PlainTechnique()))
    assert LabelScorer(plain, env.data).compute_log_scores([(rows[0].messages[:-1], ())]).shape == (1, 3)


def test_faults_are_told(tmp_path: Path) -> None:
    quick: dict[str, Any] = {"data": "data", "epochs": 1, "batch_size": 8, "dtype": "float32"}
    env: TuneEnv = make_env(tmp_path, pairs())
    with pytest.raises(DataError, match="have no labels"):
        LabelScorer(env.base, env.data)
    ranked = env.tune(Tune(**quick, technique=Lora(r=2), objective=RewardObjective()))
    with pytest.raises(ModelError, match="gives a reward"):
        LabelScorer(ranked, env.data)
    with serving(lambda body: "no") as server:
        far = make_base(Store(tmp_path / "far"), EndpointModelSource(url=server.url, model="far"), tmp_path)
        with pytest.raises(ModelError, match="is an endpoint"):
            LabelScorer(far, env.data)


def explained(capsys: Any, *words: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run_command(["explain", "recipe.yaml:words", *words]) == code
    return capsys.readouterr().out


def test_the_command_explains_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LUTHIER_CACHE", str(folder / "cache"))
    text = "My parcel has not come and I was charged twice."
    flip = json.loads(explained(capsys, "--show", "flips", "--text", text, "--json"))["flip"]
    assert flip["text"] == text
    assert flip["minimal"] or not flip["flipped_to"]
    assert "becomes" in explained(capsys, "--show", "flips")
    sets = json.loads(explained(capsys, "--show", "label-sets", "--text", text, "--json"))
    assert set(sets["labels"]) <= set(sets["conformal"]["labels"])
    assert "the text is one of" in explained(capsys, "--show", "label-sets", "--text", text)
    assert "surrogate.fidelity" in explained(capsys, "--show", "rules")
    explained(capsys, "--show", "rules", "--text", text, code=2)
    explained(capsys, "--show", "changes", code=2)  # no weights
