"""From a model's proposals to what people should label next, and back, as one recipe over a small real model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from luthier.commands.lineage import trace_example
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, RecipeError
from luthier.core.step import ArtifactSpec, PlanContext
from luthier.data.annotation.confidence import fit_label_temperature, softmax_log_scores
from luthier.data.steps.prelabel import Prelabel, _with_proposal
from luthier.data.steps.sample_for_labeling import SampleForLabeling
from luthier.recipe.schema import Recipe
from tests.data.conftest import Made
from tests.targets import target
from tests.tiny_models import small_recipe

Take = Callable[..., Made]
RECIPE = """\
luthier: 1
name: active
seed: 3
model: tiny-model
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
    split: {test: 20, validation: 24}
  guess: {kind: prelabel, data: data}
  next: {kind: sample_for_labeling, data: guess, count: 10}
  weak:
    kind: label
    data: guess
    functions: [{kind: proposal, confidence: 0.0}, {kind: keywords, label: billing, words: [invoice, refund, price]}]
    rule: majority
    undecided: keep
"""


FOLDER: list[Path] = []


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("active")
    small_recipe(folder, RECIPE)
    result = Recipe.load(folder / "recipe.yaml").run()
    FOLDER.append(folder)
    return {name: result[name].artifact for name in ("data", "guess", "next", "weak")} | {
        "model": result["guess"].artifact.parent("model")
    }


def _rows(artifact: Artifact, split: str = "train") -> list[dict[str, Any]]:
    table = pl.read_parquet(artifact.path(f"examples/{split}.parquet"))
    return [{**row, "meta": json.loads(row["meta"])} for row in table.iter_rows(named=True)]


def test_every_row_has_a_proposal_and_nothing_else_changed(made: dict[str, Artifact]) -> None:
    for split in ("train", "validation", "test"):
        for before, after in zip(_rows(made["data"], split), _rows(made["guess"], split), strict=True):
            proposal = after["meta"].pop("proposal")
            assert after == before
            assert set(proposal["scores"]) == {"account", "billing", "delivery"}
            assert sum(proposal["scores"].values()) == pytest.approx(1, abs=1e-5)
            assert proposal["confidence"] == max(proposal["scores"].values()) == proposal["scores"][proposal["label"]]
            assert proposal["model"] == made["model"].digest[:12]


def test_scores_are_those_of_an_evaluation(made: dict[str, Artifact], take: Take) -> None:
    """Not calibrated, the proposals are the shares of the log-probabilities that each label has after the prompt."""
    from luthier.chat.messages import Message
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.generate import score_options
    from luthier.models.load import load_model

    step = Prelabel(data="data", calibrate="off", system="Pick.")
    found = take(step, data=made["data"], model=made["model"])
    row = found.split("train").row(0, named=True)
    loaded = load_model(made["model"], dtype="float32")
    asked = json.loads(row["messages"])[0]["content"]
    turns = (Message(role="system", content="Pick."), Message(role="user", content=asked))
    labels = ["account", "billing", "delivery"]
    before, options = ChatTokenizer.load(loaded.folder).options(turns, labels)
    sums = score_options(loaded.model, [before], [options])[0]
    shares = np.exp(np.array(sums) - np.logaddexp.reduce(sums))
    proposal = json.loads(row["meta"])["proposal"]
    assert [proposal["scores"][label] for label in labels] == pytest.approx(shares.tolist(), abs=1e-4)


def test_calibration_makes_held_out_labels_likelier(made: dict[str, Artifact], take: Take) -> None:
    plain = take(Prelabel(data="data", calibrate="off"), data=made["data"], model=made["model"])

    def surprise(rows: list[dict[str, Any]]) -> float:
        return -float(np.mean([np.log(row["meta"]["proposal"]["scores"][row["label"]]) for row in rows]))

    assert surprise(_rows(made["guess"], "validation")) < surprise(_rows(plain.artifact, "validation"))


def test_the_temperature_is_the_one_that_was_put_in() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (4000, 3))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = ["abc"[random.choice(3, p=row)] for row in shares]
    hot = [dict(zip("abc", (row * 2.5).tolist(), strict=True)) for row in logits]
    assert fit_label_temperature(hot, labels) == pytest.approx(2.5, rel=0.08)
    assert softmax_log_scores({"a": 0.0, "b": 0.0}) == {"a": 0.5, "b": 0.5}
    assert softmax_log_scores({"a": 2.0, "b": 0.0}, 2.0)["a"] == pytest.approx(1 / (1 + np.exp(-1)))


def test_calibration_that_cannot_be(made: dict[str, Artifact], take: Take, make: Any, write: Any) -> None:
    rows = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(12)]
    few = make(source={"kind": "jsonl", "path": write("few.jsonl", rows)}, split={"test": 0}).artifact
    found = take(Prelabel(data="data"), data=few, model=made["model"])
    assert "not calibrated: 0 labelled rows in the split 'validation'" in found.notes
    with pytest.raises(RecipeError, match="cannot calibrate") as caught:
        take(Prelabel(data="data", calibrate="test"), data=few, model=made["model"])
    assert caught.value.where.field == "calibrate"


def test_texts_without_classes_want_labels(made: dict[str, Artifact], take: Take, make: Any, write: Any) -> None:
    rows = [{"text": f"a plain text, number {n}"} for n in range(8)]
    plain = make(source={"kind": "jsonl", "path": write("p.jsonl", rows)}, split={"test": 0}, task="text").artifact
    with pytest.raises(RecipeError, match="at least two are wanted"):
        take(Prelabel(data="data"), data=plain, model=made["model"])
    found = take(Prelabel(data="data", labels=["yes", "no"]), data=plain, model=made["model"])
    assert {json.loads(meta)["proposal"]["label"] for meta in found.all()["meta"]} <= {"yes", "no"}
    assert found.texts() == [f"a plain text, number {n}" for n in range(8)]
    chosen = take(SampleForLabeling(data="guess", count=3, by="uncertainty"), data=found.artifact)
    assert chosen.summary.rows == {"train": 3}


def test_a_killed_run_goes_on_with_what_was_asked(made: dict[str, Artifact], take: Take, tmp_path: Path) -> None:
    found = take(Prelabel(data="data"), data=made["data"], model=made["model"])
    kept = list((tmp_path / "step-scratch1" / "asked").glob("*.json"))
    assert len(kept) >= 3
    assert found.files() == {entry.path: entry.digest for entry in made["guess"].manifest.files}


def test_an_endpoint_that_names_a_label_has_no_confidence() -> None:
    from tests.test_every_label_function import _row

    row = _row(0, "t", {"proposal": "old"})
    assert _with_proposal(row, {"a": 0.0}, 1.0, "m").meta["proposal"] == {
        "label": "a", "confidence": None, "scores": {}, "model": "m",
    }  # fmt: skip
    assert "proposal" not in _with_proposal(row, None, 1.0, "m").meta


def test_what_is_chosen_is_ranked_and_the_rest_is_listed(made: dict[str, Artifact]) -> None:
    rows = _rows(made["next"])
    assert [row["meta"]["selected"]["rank"] for row in rows] == list(range(1, 11))
    summary = made["next"].read_json("summary.json")
    assert summary["rows"] == {"train": 10}
    assert summary["dropped"] == {"in another split": 44, "not selected": 36}
    assert summary["rows_in"] == 90
    events = pl.read_parquet(made["next"].path("events.parquet"))
    assert events.height == 80
    assert not set(events["id"]) & {row["id"] for row in rows}


def test_rows_that_are_judged_are_not_asked_again(make: Any, write: Any, take: Take) -> None:
    judged = [{"annotator": "ann", "label": "a"}]
    rows = [{"text": f"text {n}", "label": "ab"[n % 2], "judgments": judged if n < 5 else []} for n in range(12)]
    data = make(source={"kind": "jsonl", "path": write("t.jsonl", rows)}, split={"test": 0}).artifact
    found = take(SampleForLabeling(data="data", count=100, by="k_center"), data=data)
    assert found.summary.rows == {"train": 7}
    assert found.summary.dropped == {"judged already": 5}
    everything = [{**row, "judgments": judged} for row in rows]
    data = make(source={"kind": "jsonl", "path": write("e.jsonl", everything)}, split={"test": 0}).artifact
    with pytest.raises(DataError, match="every row is judged already"):
        take(SampleForLabeling(data="data", by="random"), data=data)
    with pytest.raises(DataError, match="no split 'test'"):
        take(SampleForLabeling(data="data", by="random", split="test"), data=data)
    with pytest.raises(ValidationError):
        SampleForLabeling(data="data", count=0)


def test_proposals_vote_beside_rules(made: dict[str, Artifact]) -> None:
    summary = made["weak"].read_json("summary.json")
    assert summary["task"] == "label"
    assert _rows(made["weak"], "test") == _rows(made["guess"], "test")
    votes = [row["meta"]["weak"]["votes"] for row in _rows(made["weak"])]
    assert all("proposal" in one for one in votes)


def test_costs_are_foretold(made: dict[str, Artifact], tmp_path: Path) -> None:
    outlook = PlanContext(inputs={"data": made["data"]}, upstream={}, recipe_dir=tmp_path)
    assert Prelabel(data="data").estimate_cost(outlook).how == "no model was asked here yet"
    known = PlanContext(
        inputs={"data": made["data"]}, upstream={}, recipe_dir=tmp_path, history={"measures": {"rows_per_s": 9}}
    )
    assert Prelabel(data="data").estimate_cost(known).seconds == 10
    assert SampleForLabeling(data="data").estimate_cost(known).seconds == 11
    ahead = PlanContext(
        inputs={}, upstream={}, recipe_dir=tmp_path, outlines={"data": ArtifactSpec(rows={"train": 50, "test": 9})}
    )
    assert SampleForLabeling(data="data", count=10).outline(ahead).rows == {"train": 10}
    assert SampleForLabeling(data="data", count=80).outline(ahead).rows == {"train": 50}
    assert Prelabel(data="data").outline(ahead).rows == {"train": 50, "test": 9}


def test_a_trace_goes_on_through_later_data_sets(made: dict[str, Artifact]) -> None:
    row = next(row for row in _rows(made["weak"]) if "given" in row["meta"] and row["meta"]["given"] != row["label"])
    told = trace_example(row["id"], target(str(FOLDER[0] / "recipe.yaml")))
    later = {one["step"]: one for one in told.facts["later"]}
    assert set(later) == {"guess", "next", "weak"}
    assert later["weak"]["label"] == row["label"]
    lines = "\n".join(told.lines())
    edit = f"{row['meta']['given']!r} → {row['label']!r}"
    assert f"weak: labelled by {len(row['meta']['weak']['votes'])} of 2 functions" in lines
    assert edit in lines
    assert "next: dropped by next: not selected" in lines or "next: in the split train" in lines
