"""Attacks on explanations, and what is told of them: hidden use, planted orders, padding, flat targets."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from explain.hiding import DECOY, draw_text, hide
from explain.planted import ask, planted, taught_base
from explain.test_faithfulness import GameScorer
from luthier.artifacts.explanation import ExplanationRecord
from luthier.core.artifact import Artifact
from luthier.core.store import Store
from luthier.explain.explainer import Explainer
from luthier.explain.explainers.leave_one_out import leave_one_out
from luthier.explain.faithfulness import measure_faithfulness
from luthier.explain.run import explain_question
from luthier.explain.scorer import Units
from luthier.explain.subject import ExplanationRequest, SubjectBuilder
from luthier.models.sources.folder import FolderModelSource
from models.making import make_base


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model that answers by one planted word."""
    return taught_base(tmp_path_factory.mktemp("taught"))[1]


def gain(record: ExplanationRecord) -> float:
    """How much better than random orders an explanation is."""
    found = record.faithfulness
    assert found is not None
    own = found.comprehensiveness - found.sufficiency
    return own - found.random_comprehensiveness.mean + found.random_sufficiency.mean


def test_a_model_that_hides_from_gradients_is_told(model: Artifact) -> None:
    """With sharp outputs the answer is certain, and gradients vanish; removal still finds what is used."""
    builder = SubjectBuilder(model, units="words", seed=1)
    with torch.no_grad():
        network: Any = builder._cache.load(model, "float32").model
        network.model.norm.weight.mul_(40.0)  # of the last norm, and so the logits
    draw, gains, flat = random.Random(4), {"gradient_x_input": 0.0, "leave_one_out": 0.0}, 0
    for _ in range(8):
        text, answer, _ = planted(draw)
        question = ExplanationRequest(messages=ask(text), answer=answer)
        for record in explain_question(builder, question, [Explainer.parse(kind) for kind in gains], orders=19):
            gains[record.method] += gain(record) / 8
            flat += any("flat" in note for note in record.notes)
    assert gains["leave_one_out"] > 0.2
    assert gains["gradient_x_input"] < gains["leave_one_out"] / 2
    assert flat >= 4, "the notes say that all scores are equal"


GRADIENT = ("attnlrp", "gradient_x_input")
HIDDEN_STEPS = 60
"""More, and the model begins to use the word that it points at."""


def measure_hiding(model: Artifact, texts: int) -> dict[str, dict[str, float]]:
    """By method: the mean gain over random orders, how often the planted word and the decoy are first, and how often
    the order is called better than random."""
    builder, draw, found = SubjectBuilder(model, units="words", seed=1), random.Random(4), dict[str, dict[str, float]]()
    for _ in range(texts):
        text, answer, number = draw_text(draw)
        question = ExplanationRequest(messages=ask(text), answer=answer)
        kinds = [Explainer.parse(kind) for kind in (*GRADIENT, "leave_one_out")]
        for record in explain_question(builder, question, kinds, orders=19):
            scores = [unit.score for unit in record.units]
            first = scores.index(max(scores))
            assert record.faithfulness is not None
            own = found.setdefault(record.method, dict.fromkeys(("gain", "planted", "decoy", "better"), 0.0))
            own["gain"] += gain(record) / texts
            own["planted"] += (first == number) / texts
            own["decoy"] += (first == DECOY) / texts
            own["better"] += (record.faithfulness.verdict == "better than random") / texts
    return found


def hidden_base(folder: Path, steps: int, seed: int = 0) -> Artifact:
    """The model that was taught to hide, as a base artifact."""
    return make_base(Store(folder / "store"), FolderModelSource(path=str(hide(steps, seed=seed))), folder)


def test_a_model_that_was_taught_to_point_elsewhere_is_told(tmp_path: Path) -> None:
    """Its gradients point at a word that says nothing: faithfulness falls to that of random orders, and removal still
    finds what is used."""
    found = measure_hiding(hidden_base(tmp_path, HIDDEN_STEPS), 6)
    for kind in GRADIENT:
        assert found[kind]["planted"] <= 1 / 6
        assert found[kind]["decoy"] >= 0.5
        assert found[kind]["gain"] < 0.1 < found["leave_one_out"]["gain"] / 2
        assert found[kind]["better"] < found["leave_one_out"]["better"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_hiding_costs_faithfulness_and_the_best_method_is_another(tmp_path: Path, seed: int) -> None:
    """Beside the honest model that it was made from, on the same texts."""
    honest = measure_hiding(taught_base(tmp_path / "honest")[1], 30)
    hiding = measure_hiding(hidden_base(tmp_path / "hiding", HIDDEN_STEPS, seed), 30)
    assert honest["attnlrp"]["planted"] > 0.9
    assert honest["attnlrp"]["gain"] > 0.4
    for kind in GRADIENT:
        assert hiding[kind]["decoy"] > honest[kind]["decoy"] + 0.3
        assert hiding[kind]["gain"] < min(0.1, honest[kind]["gain"])
        assert hiding[kind]["better"] <= 0.3
    assert max(hiding, key=lambda kind: hiding[kind]["gain"]) == "leave_one_out"
    assert hiding["leave_one_out"]["gain"] > 0.3


def test_a_model_that_hides_from_removal_is_told() -> None:
    """Where the model answers as usual without any one unit, leave-one-out sees nothing, and it says so."""

    def value(kept: Units) -> float:
        return math.log(0.05 + 0.9 * (len(kept) >= 11 or 3 in kept))

    scorer = GameScorer(12, value)
    scores = leave_one_out(scorer)
    assert scores == pytest.approx([0.0] * 12)
    found = measure_faithfulness(scorer, scores)
    assert found.verdict != "better than random"
    assert found.rank_agreement is None
    assert measure_faithfulness(scorer, [float(unit == 3) for unit in range(12)]).verdict == "better than random"


@pytest.mark.parametrize("method", ["attnlrp", "leave_one_out"])
def test_an_order_planted_in_a_document_is_the_strongest_document(model: Artifact, method: str) -> None:
    text = "[1] the order was today\n[2] we need the password\n[3] please help the customer\n[4] about the order again"
    question = ExplanationRequest(messages=ask(text), answer="account", against="delivery")
    builder = SubjectBuilder(model, units="documents")
    (record,) = explain_question(builder, question, [Explainer.parse(method)], orders=9)
    assert len(record.units) == 4
    assert max(record.units, key=lambda unit: unit.score).text.startswith("[2]")


def test_a_doubled_word_hides_from_removal_and_is_told(model: Artifact) -> None:
    """Either copy suffices, so taking one away shows little: the scores and the verdict say less than for one copy."""
    builder, gains, strongest = SubjectBuilder(model, units="words", seed=1), [0.0, 0.0], [0.0, 0.0]
    for evidence, answer in (("parcel", "delivery"), ("invoice", "billing"), ("password", "account")):
        for copies in (1, 2):
            text = " ".join(["the order", *[evidence] * copies, "was today and we need"])
            question = ExplanationRequest(messages=ask(text), answer=answer)
            (record,) = explain_question(builder, question, [Explainer.parse("leave_one_out")], orders=19)
            gains[copies - 1] += gain(record) / 3
            strongest[copies - 1] += max(unit.score for unit in record.units) / 3
    assert strongest[1] < strongest[0] / 2
    assert gains[1] < gains[0]


def test_padding_makes_no_worthless_order_look_good() -> None:
    def value(kept: Units) -> float:
        return math.log(0.05 + 0.9 * (0 in kept))

    for count in (10, 200):
        scorer = GameScorer(count, value)
        good, bad = ([sign * float(unit == 0) - unit * 1e-6 for unit in range(count)] for sign in (1, -1))
        assert measure_faithfulness(scorer, good).verdict == "better than random"
        worthless = measure_faithfulness(scorer, bad)
        assert worthless.verdict == "no better than random"
        assert worthless.comprehensiveness == pytest.approx(0)


def test_a_flat_target_is_told(tmp_path: Path) -> None:
    """Where the answer does not depend on the prompt, all units have the same score."""
    _, model = taught_base(tmp_path, steps=2)
    builder = SubjectBuilder(model, units="words")
    with torch.no_grad():
        network: Any = builder._cache.load(model, "float32").model
        network.model.norm.weight.zero_()
    question = ExplanationRequest(messages=ask("where is the parcel today"), answer="delivery")
    for record in explain_question(builder, question, [Explainer.parse(kind) for kind in ("attnlrp", "shapley")]):
        assert any("the target is flat" in note for note in record.notes)
        assert record.faithfulness is not None
        assert record.faithfulness.verdict != "better than random"
