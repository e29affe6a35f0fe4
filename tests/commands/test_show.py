"""`luthier show` tells of what every kind of step makes."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luthier.cli.app import run_command
from luthier.commands.rate import open_rating_session
from luthier.core.component import components_by_kind
from luthier.core.step import Step
from luthier.recipe.schema import Recipe
from tests.endpoint import Body, serving
from tests.targets import target
from tiny_models import own_cache, tickets, tiny_model

RECIPE = """\
luthier: 1
name: every
seed: 3
model: tiny-model
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
    split: {test: 30, validation: 20}
  unlabeled: {kind: unlabeled, data: data}
  checked: {kind: validate, data: data, checks: [imbalance]}
  counted: {kind: validate_sites, sites: [data], checks: [imbalance]}
  more: {kind: augment, data: data, augmenters: [noise], share: 0.1}
  both: {kind: mix, data: [data, more]}
  weighed: {kind: reweigh, data: data, column: region}
  guess: {kind: prelabel, data: data}
  next: {kind: sample_for_labeling, data: guess, count: 5}
  weak:
    kind: label
    data: guess
    functions: [{kind: proposal, confidence: 0.0}, {kind: keywords, label: billing, words: [invoice, refund, price]}]
    rule: majority
    undecided: keep
  writer: {kind: base, source: {kind: endpoint, url: URL, model: m, retries: 0}}
  rules: {kind: constitution, data: data, model: writer, rules: [Be kind.], rows: 4}
  tune:
    kind: tune
    data: data
    technique: {kind: lora, r: 2}
    batch_size: 8
    learning_rate: 1.0e-2
    epochs: 2
    save_epochs: 1
    keep_states: 1
    dtype: float32
  early: {kind: epoch, tuned: tune, epoch: 1}
  merged: {kind: merge, models: [tune, early], weights: [0.5, 0.5]}
  eyes: {kind: compose, encoder: {image_size: 14, hidden_size: 16, layers: 1, heads: 2}}
  words: {kind: tune, data: data, technique: plain}
  best: {kind: search, of: words, over: {technique.c: [1, 9]}, metric: accuracy, budget: 2, finalists: 1, seeds: 1}
  curve: {kind: curve, data: data, metric: accuracy}
  sites:
    kind: federate
    sites: [data]
    rounds: 1
    local: {steps: 2}
    personal: {kind: adapter, r: 2, local: {steps: 1}}
    tune: {technique: {kind: lora, r: 2}}
  site: {kind: site_model, tuned: sites, site: data}
  why: {kind: explain, data: data, model: tune, methods: [gradient_x_input], limit: 4}
  changed: {kind: model_diff, data: data, model: tune, limit: 4, matrices: 1}
  flips: {kind: counterfactuals, data: data, model: words, limit: 2, max_edits: 1}
  stands: {kind: surrogate, data: data, model: words, limit: 60, min_rows: 2}
  sets: {kind: conformal, data: data, model: words}
  taught: {kind: influence, data: data, model: tune, methods: [tracin]}
  report: {kind: evaluate, data: data, model: tune, metrics: [accuracy]}
  fair: {kind: thresholds, evaluation: report, column: region, positive: billing, min: 3}
  ask: {kind: human_eval, evaluation: report, models: [tuned, tfidf], rows: 12, annotators: [anna]}
  people: {kind: human_ratings, assignment: ask}
  pairs: {kind: preferences, human_ratings: people}
  gate: {kind: gate, evaluation: report, rules: ["accuracy >= 0.0"]}
  monitor:
    kind: monitor
    data: data
    evaluation: report
    signals: [latency, {kind: drift, rows: 80}]
    alerts: [{expr: "drift.evidence > 2", name: drifted}]
  latencies: {kind: monitor, signals: [latency]}
  everywhere: {kind: monitor_sites, monitor: latencies, sites: {north: north.jsonl}}
"""


def writes(body: Body) -> str:
    """Answers, criticises, revises, and prefers the revision."""
    last = str(body["messages"][-1]["content"])
    if last.endswith("Answer with A or B."):
        return "B" if "kinder" in last.split("Answer B: ")[1] else "A"
    asked = re.sub(r"\W+", " ", str(body["messages"][0]["content"]))
    return f"kinder, of {asked}" if last.startswith("Now write") else f"of {asked}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which a recipe with a step of every kind was run, with what people judged."""
    folder = tmp_path_factory.mktemp("every")
    tiny_model(folder / "tiny-model")
    rows = [{**row, "region": ("north", "south")[n % 2]} for n, row in enumerate(tickets(130))]
    rows += [{**row, "message": f"{row['message']} Again.", "category": ""} for row in rows[:4]]
    with (folder / "tickets.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.MonkeyPatch.context() as patch, serving(writes) as server:
        patch.setenv("LUTHIER_CACHE", own_cache(folder))
        patch.chdir(folder)
        (folder / "recipe.yaml").write_text(RECIPE.replace("URL", server.url), encoding="utf-8")
        assert run_command(["run", "--only", "ask"]) == 0
        with open_rating_session(target(":ask")) as sitting:
            for item in sitting.left("anna"):
                sitting.say("anna", item, "a", None)
            sitting.save(folder / "judgments.jsonl")
        assert run_command(["run"]) == 0
        yield folder


@pytest.fixture(autouse=True)
def _here(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(made))
    monkeypatch.chdir(made)


def shown(capsys: pytest.CaptureFixture[str], word: str) -> Any:
    capsys.readouterr()
    assert run_command(["show", word]) == 0, capsys.readouterr().err
    assert len(capsys.readouterr().out.splitlines()) > 3
    assert run_command(["show", word, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_kind_of_step_is_shown(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = {name: step.kind for name, step in Recipe.load(made).all_steps().items()}
    own = {kind for kind, step in components_by_kind(Step).items() if step.__module__.startswith("luthier.")}
    assert set(steps.values()) == own, "the recipe above has a step of every kind"
    for name, kind in steps.items():
        told = shown(capsys, f"recipe.yaml:{name}")
        assert told["kind"] == kind
        assert told["summary"], f"{kind} has something to tell"
    told = shown(capsys, "recipe.yaml:monitor")["summary"]
    assert (told["signals"], told["alerts"]) == ("latency, drift", {"drifted": "drift.evidence > 2"})
    assert set(shown(capsys, ":fair")["summary"]) == {"positive", "by", "north", "south"}


def test_a_base_model_is_exported_by_its_step_and_by_its_folder(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = (made / "tiny-model" / "model.safetensors").read_bytes()
    for word in ("recipe.yaml:model", "tiny-model"):
        to = tmp_path / word.partition(":")[0]
        assert run_command(["export", word, "--to", str(to)]) == 0
        assert (to / "model.safetensors").read_bytes() == weights
        assert "AutoTokenizer.from_pretrained(folder)" in (to / "README.md").read_text(encoding="utf-8")
    assert run_command(["export", "tiny-model", "--to", str(tmp_path / "x"), "--format", "adapter"]) == 2
    assert "is a whole model, not an adapter" in capsys.readouterr().err
    assert run_command(["export", "nothing-known", "--to", str(tmp_path / "x")]) == 2
    assert "expected RECIPE:STEP, RUN:STEP or the beginning" in " ".join(capsys.readouterr().err.split())
    assert run_command(["export", "tiny-model", "--to", str(tmp_path / "x"), "--no-base"]) == 2
    assert "every other form holds the whole model" in capsys.readouterr().err
