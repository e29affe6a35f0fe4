"""The step `influence`: from a recipe with wrong labels to the rows that hurt, and the recipe that mends them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import polars
import pytest
import torch

from explain.planted import planted
from luthier.artifacts.dataset import read_examples
from luthier.artifacts.findings import read_findings, read_flagged_rows
from luthier.artifacts.influence import HARMFUL, InfluenceSummary
from luthier.chat.messages import prompt_of
from luthier.cli.app import run_command
from luthier.core.artifact import Artifact
from luthier.models.lm.local import LocalLM
from luthier.recipe.locate import CommandTarget, find_artifact
from luthier.recipe.workspace import Workspace
from tiny_models import tickets, tiny_model, write_csv

RECIPE = """\
luthier: 1
name: tickets
seed: 3
model: tiny-model
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
    split: {test: 20}
  tune:
    kind: tune
    data: data
    technique: {kind: lora, r: 4}
    objective: {kind: classify, head: sequence}
    batch_size: 8
    epochs: 3
    learning_rate: 3.0e-3
    dtype: float32
    keep_states: 3
  checked:
    kind: validate
    data: data
    checks: [label_errors]
  taught:
    kind: influence
    model: tune
    data: data
    findings: checked
    methods: [adam, nearest]
    retrainings: 10
    top: 5
    harmful: 0.1
"""
WRONG = range(0, 60, 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which the recipe was run; some labels are wrong."""
    folder = tmp_path_factory.mktemp("taught")
    tiny_model(folder / "tiny-model")
    rows = tickets(70)
    names = sorted({row["category"] for row in rows})
    for at in WRONG:
        rows[at]["category"] = names[(names.index(rows[at]["category"]) + 1) % len(names)]
    write_csv(folder / "tickets.csv", rows)
    (folder / "recipe.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LUTHIER_CACHE", str(folder / "cache"))
        assert run_command(["run", "recipe.yaml"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LUTHIER_CACHE", str(folder / "cache"))


@pytest.fixture
def artifact(folder: Path) -> Artifact:
    return find_artifact(CommandTarget(Workspace.open_current(), "recipe.yaml:taught")).artifact


def test_scores_are_verified_and_lead_to_lines_of_the_file(artifact: Artifact) -> None:
    summary = InfluenceSummary.read(artifact)
    assert summary.verified.startswith("LDS ")
    assert summary.verification is not None
    assert summary.verification.retrainings == 10
    assert {removal.what for removal in summary.verification.removals} == {"proponents", "opponents"}
    assert {method.method for method in summary.methods} == {"adam", "nearest"}
    assert all(method.lds is not None for method in summary.methods)
    assert 0 < len(summary.proponents) <= 5
    for row in summary.proponents:
        assert row.file == "tickets.csv"
        assert row.score > 0
        assert row.text
    table = polars.read_parquet(artifact.path("influence.parquet"))
    assert len(table) == summary.rows == 50
    assert {"score.adam", "score.nearest"} <= set(table.columns)
    assert summary.agreement is not None
    assert 0 <= summary.agreement.p <= 1


@pytest.mark.parametrize("each", [False, True])
def test_rows_that_hurt_are_tested_against_chance(folder: Path, each: bool) -> None:
    text = RECIPE.replace("[adam, nearest]\n    retrainings: 10", f"[adam]\n    query: {{each: {str(each).lower()}}}")
    (folder / "tested.yaml").write_text(text)
    assert run_command(["run", "tested.yaml"]) == 0
    artifact = find_artifact(CommandTarget(Workspace.open_current(), "tested.yaml:taught")).artifact
    summary, (finding,) = InfluenceSummary.read(artifact), read_findings(artifact).findings
    tested = summary.significance
    assert tested is not None
    assert (tested.question_rows, tested.untested) == (20, "")
    assert tested.significant <= tested.harmful == finding.rows <= 5
    assert tested.sentence in finding.sentence
    assert sum(row.p is not None for row in summary.opponents) == tested.harmful
    assert sum(row.p is not None and row.p <= tested.level for row in summary.opponents) == tested.significant
    assert tested.sentence in (folder / ".luthier" / "reports" / "tickets.html").read_text()


def test_rows_that_hurt_are_a_finding_whose_mend_is_a_recipe(
    artifact: Artifact, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finding,) = read_findings(artifact).findings
    assert finding.name == HARMFUL
    marks = list(read_flagged_rows(artifact))
    assert len(marks) == finding.rows <= 5
    if not marks:
        pytest.skip("no row of this training hurts")
    assert run_command(["new", "mended", "--from", "explain", "--base-recipe", "recipe.yaml"]) == 0
    text = (folder / "mended.yaml").read_text()
    assert "exclude_ids" in text
    assert all(mark.id in text for mark in marks)
    assert "name: mended" in text
    capsys.readouterr()
    assert run_command(["plan", "mended.yaml", "--json"]) == 0
    assert run_command(["new", "mended", "--from", "explain", "--base-recipe", "recipe.yaml"]) == 2


def test_the_report_and_show_tell_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (folder / ".luthier" / "reports" / "tickets.html").read_text()
    assert "Which rows taught it" in page
    assert "tickets.csv:" in page
    assert run_command(["report", "recipe.yaml", "--format", "markdown", "--json"]) in (0, 2)
    capsys.readouterr()
    assert run_command(["show", "recipe.yaml:taught"]) == 0
    assert "LDS" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("    keep_states: 3\n", "", "keeps no states"),
        ("{kind: classify, head: sequence}", "{kind: kto}", "kto compares each row with its neighbours"),
        ("retrainings: 10", "retrainings: 3", "10 retrainings at least"),
        ("    learning_rate: 3.0e-3\n", "    optimizer: muon\n    learning_rate: 3.0e-3\n", "keeps no second moments"),
        ("    top: 5\n", "    query: {failing: true}\n", "asks an evaluation"),
        ("    top: 5\n", "    query: {text: hello}\n", "belong together"),
    ],
)
def test_what_cannot_be_told_is_refused_by_the_plan(
    folder: Path, old: str, new: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "other.yaml").write_text(RECIPE.replace(old, new))
    assert run_command(["plan", "other.yaml"]) == 2
    assert told in "".join(capsys.readouterr())


def test_a_policy_is_refused_by_the_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = RECIPE.replace("{kind: classify, head: sequence}", "{kind: grpo, rewards: [exact]}")
    (folder / "policy.yaml").write_text(text.replace("    keep_states: 3\n", ""))
    assert run_command(["plan", "policy.yaml"]) == 2
    assert "learns from answers that the model drew" in "".join(capsys.readouterr())
    (folder / "policy.yaml").write_text(text)
    assert run_command(["plan", "policy.yaml"]) == 2


def test_a_text_with_an_answer_is_asked_about(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = RECIPE.replace("    retrainings: 10\n", '    query: {text: "Where is my parcel?", answer: delivery}\n')
    (folder / "text.yaml").write_text(text)
    assert run_command(["run", "text.yaml", "--json"]) == 0
    capsys.readouterr()
    assert run_command(["show", "text.yaml:taught", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert "not verified" in json.dumps(shown)


PLANTED = """\
luthier: 1
name: planted
seed: 3
model: tiny-model
steps:
  data:
    kind: prepare
    source: {kind: csv, path: rows.csv, prompt: text, answer: label}
    split: {test: 60, validation: 40}
  tune:
    kind: tune
    data: data
    technique: full
    objective: {kind: classify, head: sequence}
    batch_size: 12
    epochs: 8
    learning_rate: 2.0e-3
    dtype: float32
    keep_states: 4
  taught:
    kind: influence
    model: tune
    data: data
    query: {split: validation}
    methods: [adam]
    harmful: 0.15
"""


@pytest.mark.slow
def test_from_an_answer_to_label_errors_to_a_better_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One label in ten is wrong; without the rows that hurt validation rows, test rows have a lower loss in pairs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    tiny_model(tmp_path / "tiny-model")
    draw = random.Random(5)
    rows = [dict(zip(("text", "label"), planted(draw)[:2], strict=True)) for _ in range(220)]
    names = sorted({row["label"] for row in rows})
    wrong = set(draw.sample(range(220), 22))
    for at in wrong:
        rows[at]["label"] = names[(names.index(rows[at]["label"]) + 1) % len(names)]
    write_csv(tmp_path / "rows.csv", rows)
    (tmp_path / "recipe.yaml").write_text(PLANTED)
    assert run_command(["run", "recipe.yaml"]) == 0
    taught = find_artifact(CommandTarget(Workspace.open_current(), "recipe.yaml:taught")).artifact
    table = polars.read_parquet(taught.path("influence.parquet")).sort("score.adam")
    is_wrong = [line - 2 in wrong for line in table["line"].to_list()]
    assert sum(is_wrong[: len(table) // 10]) > 2 * sum(is_wrong) / 10, "more often than twice by chance"
    assert run_command(["new", "mended", "--from", "explain", "--base-recipe", "recipe.yaml"]) == 0
    assert run_command(["run", "mended.yaml", "--only", "tune"]) == 0
    before, after = (measure_losses(f"{name}.yaml", wrong) for name in ("recipe", "mended"))
    both = before.keys() & after.keys()
    assert len(both) > 40
    assert sum(after[key] for key in both) < sum(before[key] for key in both)
    assert sum(after[key] < before[key] for key in both) > len(both) / 2


def measure_losses(file: str, wrong: set[int]) -> dict[str, float]:
    """Of each test row with its true label, by id: minus the log-probability of its class."""
    model = find_artifact(CommandTarget(Workspace.open_current(), f"{file}:tune")).artifact
    data = model.parent("data")
    lm = LocalLM(model, "float32")
    held = [example for example in read_examples(data, "test") if example.origin.line - 2 not in wrong]
    scores = lm.classify([(prompt_of(example), ()) for example in held])
    return {
        example.id: -float(torch.log_softmax(torch.tensor(own), -1)[lm.classes.index(str(example.label))])
        for own, example in zip(scores, held, strict=True)
    }
