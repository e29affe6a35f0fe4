"""A data set is checked, gated on and given out, by the commands that a person types."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from luthier.cli.app import run_command
from luthier.core.component import components_by_kind
from luthier.core.errors import ModelError
from luthier.core.step import Step
from luthier.data.check import Check
from luthier.data.operator import Operator
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.schema import Recipe
from tiny_models import tickets, write_csv

RECIPE = """\
luthier: 1
name: tickets
seed: 3
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
    split: {test: 60}
  validate: {kind: validate, data: data, checks: [label_errors, conflicts, answer_quality]}
  gate: {kind: gate, findings: validate, rules: ["label_errors < 2%", "no serious findings"]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe over tickets of which every ninth bears a wrong class."""
    rows = tickets(270)
    for row in rows[::9]:
        row["category"] = {"billing": "delivery", "delivery": "account", "account": "billing"}[row["category"]]
    write_csv(tmp_path / "tickets.csv", rows)
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_serious_findings_are_printed_gated_on_and_given_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run"]) == 1
    told = capsys.readouterr().out
    assert "The data are not fit to train on yet; 1 serious finding: likely label errors." in told
    assert "serious: Likely label errors:" in told
    assert "gate FAIL: label_errors < 2%" in told
    assert "not fit to train on yet" in (folder / ".luthier" / "reports" / "tickets.html").read_text()

    assert run_command(["show", "recipe.yaml:validate", "--json"]) == 0
    assert "label_errors" in json.loads(capsys.readouterr().out)["summary"]

    assert run_command(["export", "recipe.yaml:data", "--to", "rows"]) == 0
    readme = (folder / "rows" / "README.md").read_text()
    assert "serious: Likely label errors." in readme
    assert run_command(["export", "recipe.yaml:validate", "--to", "found"]) == 0
    assert {path.name for path in (folder / "found").iterdir()} == {"findings.jsonl", "exclude_ids.yaml"}

    first = json.loads((folder / "found" / "findings.jsonl").read_text().splitlines()[0])
    capsys.readouterr()
    assert run_command(["lineage", first["id"]]) == 0
    assert f"validate: named by label_errors: {first['note']}" in capsys.readouterr().out

    (folder / "rows" / "README.md").write_text("my own words")
    capsys.readouterr()
    assert run_command(["export", "recipe.yaml:data", "--to", "rows"]) == 0
    assert "was left as it is" in capsys.readouterr().out
    assert (folder / "rows" / "README.md").read_text() == "my own words"


def test_the_steps_of_the_page_are_steps() -> None:
    page = (Path(__file__).parents[2] / "docs" / "howto" / "validate.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    steps = [step for block in blocks for step in block.values() if isinstance(step, dict)]
    assert [Step.parse(step).kind for step in steps] == [*["validate"] * 3, "gate", "curve", "gate"]
    assert all(Operator.parse(one) for block in blocks for one in block.get("ops", ()))
    listed = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in page.splitlines() if line[:3] == "| `")))
    assert listed == set(components_by_kind(Check))


def test_findings_are_named_in_plain_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = RECIPE.replace("findings: validate", "findings: data")
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    assert run_command(["plan"]) == 2
    said = capsys.readouterr().err
    assert "expected a step that makes findings; 'data' makes a dataset" in said
    assert "known: validate" in said
    (folder / "recipe.yaml").write_text(RECIPE.replace("label_errors < 2%", "label_eror < 2%"), encoding="utf-8")
    assert run_command(["plan"]) == 2
    assert "did you mean 'label_errors'" in capsys.readouterr().err


def test_what_python_takes_for_a_model_must_be_one(folder: Path) -> None:
    made = Recipe.load(folder / "recipe.yaml").run(only=["data"])
    with pytest.raises(ModelError, match="this step makes a dataset, not a model"):
        made["data"].model()


FEW = """\
luthier: 1
name: few
seed: 3
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
    split: {test: 2}
  tune: {kind: tune, data: data, technique: plain}
  validate: {kind: validate, data: data}
  gate: {kind: gate, findings: validate, rules: ["no warning findings"]}
"""


def test_too_few_rows_stop_a_run_before_training_unless_asked_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path / "tickets.csv", tickets(8))
    (tmp_path / "few.yaml").write_text(FEW, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run_command(["run", "few.yaml"]) == 2
    err = capsys.readouterr().err
    assert "nothing was trained, because the data are not fit for it: 6 training rows" in err
    assert "`luthier run few.yaml 'steps.validate.stop_on=[]'`" in err
    plan = build_recipe_plan(Recipe.load("few.yaml"))
    assert {planned.name for planned in plan.steps if planned.cached} == {"data", "validate", "gate"}

    assert run_command(["run", "few.yaml", "steps.validate.stop_on=[]"]) == 1  # the gate's verdict
    assert "already made" in capsys.readouterr().err
    assert run_command(["run", "few.yaml"]) == 1  # nothing is left to train


def test_any_check_may_stop_a_run_but_must_be_made(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = RECIPE.replace("answer_quality]", "answer_quality], stop_on: [label_errors]")
    (folder / "recipe.yaml").write_text(text + "  tune: {kind: tune, data: data, technique: plain}\n")
    assert run_command(["run"]) == 2
    assert "nothing was trained" in capsys.readouterr().err
    assert run_command(["run", "steps.validate.stop_on=[few_rows]"]) == 2
    assert "stop_on names 'few_rows', which is not among the checks" in capsys.readouterr().err
    assert run_command(["run", "steps.validate.stop_on=[]"]) == 1
