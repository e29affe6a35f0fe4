"""Several workspaces in one process, whose working directory is none of theirs."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

import luthier
from luthier.commands.retention import list_artifacts
from luthier.commands.show import describe_target
from luthier.core.events import RunEvent
from luthier.recipe.locate import CommandTarget, find_artifact, list_runs
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.report import write_report
from luthier.recipe.runner import RecordedRun, run_and_record
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from tiny_models import own_cache, tickets, write_csv

RECIPE = """\
luthier: 1
name: tickets
seed: 3
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
    ops: [normalize, exact_dedup]
    split: {test: 40, validation: 30}
  tune: {kind: tune, data: data, technique: plain}
  report: {kind: evaluate, data: data, model: tune, metrics: [accuracy, macro_f1]}
  gate: {kind: gate, evaluation: report, rules: ["accuracy > majority"]}
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory that nothing may write into, and no names of stores in the environment."""
    for name in ("LUTHIER_STORE", "LUTHIER_LEDGER", "LUTHIER_TRAFFIC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def workspace(folder: Path, rows: int) -> Workspace:
    """A folder with a recipe and its data."""
    folder.mkdir()
    write_csv(folder / "tickets.csv", tickets(rows))
    (folder / "recipe.yaml").write_text(RECIPE)
    return Workspace(folder)


def run(here: Workspace, heard: list[RunEvent] | None = None) -> RecordedRun:
    """Run the recipe of a workspace, and record the run."""
    recipe = Recipe.load(here.find_recipe(None), (), here)
    return run_and_record(recipe, (heard if heard is not None else []).append)


def test_a_recipe_runs_while_the_process_stands_elsewhere(elsewhere: Path, tmp_path: Path) -> None:
    here = workspace(tmp_path / "mine", 200)
    made = run(here)
    assert made.result.exit_code == 0
    assert made.report == tmp_path / "mine" / ".luthier" / "reports" / "tickets.html"
    assert [one.recipe for one in list_runs(here, None, limit=5)] == ["tickets"]
    found = find_artifact(CommandTarget(here, ":report"))
    assert found.artifact.digest == made.result["report"].artifact.digest
    assert describe_target(CommandTarget(here, "recipe.yaml:data")).facts["makes"] == "dataset"
    assert {row["kind"] for row in list_artifacts(here)} == {"prepare", "tune", "evaluate", "gate"}
    to = tmp_path / "report.md"
    others = [CommandTarget(here, ":report")]
    assert write_report(build_recipe_plan(made.result.recipe, costs_of=()), to, compare_with=others) == to
    assert list(elsewhere.iterdir()) == []


def test_two_workspaces_run_at_once_and_know_nothing_of_each_other(elsewhere: Path, tmp_path: Path) -> None:
    both = [workspace(tmp_path / name, rows) for name, rows in (("first", 160), ("second", 220))]
    begin = Barrier(2)
    heard: list[list[RunEvent]] = [[], []]

    def one(number: int) -> RecordedRun:
        begin.wait()
        return run(both[number], heard[number])

    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(one, range(2)))
    for here, result, events in zip(both, made, heard, strict=True):
        assert result.result.plan.store.root == here.folder / ".luthier"
        assert {row["artifact"] for row in list_artifacts(here)} == {
            step.artifact.digest for step in result.result.steps.values()
        }
        assert [event.text for event in events if event.kind == "start"] == ["prepare", "tune", "evaluate", "gate"]
    alone = run(workspace(tmp_path / "alone", 160))
    for name, step in alone.result.steps.items():
        assert step.artifact.manifest.files == made[0].result[name].artifact.manifest.files, name
    assert list(elsewhere.iterdir()) == []


def test_runs_of_all_projects_of_a_workspace_are_listed(tmp_path: Path) -> None:
    """The foot of the studio's pages gives `luthier runs`, which knew none where there were two projects."""
    for name in ("first", "second"):
        run(workspace(tmp_path / name, 160))

    def listed(recipe: Path | None, limit: int) -> list[str]:
        return [Path(one.folder).name for one in list_runs(Workspace(tmp_path), recipe, limit=limit)]

    assert listed(None, 5) == ["second", "first"]
    assert listed(None, 1) == ["second"]
    assert listed(Path("first"), 5) == ["first"]


def test_one_store_and_one_database_for_several_workspaces(elsewhere: Path, tmp_path: Path) -> None:
    shared = {"store": str(tmp_path / "team"), "database": f"sqlite:///{tmp_path}/team.db"}
    first, second = (Workspace(workspace(tmp_path / name, 160).folder, **shared) for name in ("first", "second"))
    run(first)
    again = run(second)
    assert all(step.cached for step in again.result.steps.values())
    assert len(list_runs(second, None, limit=5)) == 2
    assert not (tmp_path / "second" / ".luthier" / "artifacts").exists()
    assert list(elsewhere.iterdir()) == []


def test_only_a_workspace_asks_for_the_working_directory_and_the_names_of_stores() -> None:
    source = Path(luthier.__file__).parent
    asks = re.compile(r"\bcwd\(\)|getcwd|environ[^\n]*(?:LUTHIER_STORE|LUTHIER_LEDGER|STORE_VARIABLE|LEDGER_VARIABLE)")
    found = {
        str(path.relative_to(source)) for path in source.rglob("*.py") if asks.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"recipe/workspace.py", "recipe/schema.py", "commands/jobs/process.py"}
