"""A budget stops a run with its state kept, counts over all runs of the recipe, and is told beforehand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import RecipeError
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.recipe.budget import (
    BudgetMeter,
    BudgetSpent,
    Spending,
    find_hourly_price,
    forecast_spending,
    read_spending,
)
from luthier.recipe.executor import Placement
from luthier.recipe.executors.local import LocalExecutor
from luthier.recipe.executors.slurm import SlurmExecutor
from luthier.recipe.runner import run_recipe
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from tests import ready
from tests.tiny_models import own_cache, small_recipe

STEPS = """
import time
from typing import Any, Literal, ClassVar

from luthier.core.artifact import ArtifactType
from luthier.core.step import Step, StepCostEstimate


class PatienceResult(ArtifactType):
    '''What patience makes.'''

    kind: Literal["patience_result"] = "patience_result"

    def describe(self, artifact: Any) -> dict[str, Any]:
        return {}


class Patience(Step):
    '''Work in units, each kept when it is done.'''

    kind: Literal["patience"] = "patience"
    makes: ClassVar[str] = "patience_result"
    units: int = 20

    def make(self, work: Any) -> dict[str, Any]:
        kept = work.scratch / "kept"
        begun = done = int(kept.read_text()) if kept.exists() else 0
        while done < self.units:
            time.sleep(0.1)
            done += 1
            kept.write_text(str(done))
            work.events.progress(done, self.units, "units")
        (work.folder / "result.json").write_text('{"units": %d}' % done)
        return {"begun": begun}

    def estimate_cost(self, plan_context: Any) -> StepCostEstimate:
        return StepCostEstimate(seconds=0.1 * self.units, how="a tenth of a second each")
"""
RECIPE = "luthier: 1\nname: slow\nbudget: {hours: 0.0002}\nsteps:\n  one: {kind: patience}\n"
BUDGET_S = 0.72


class Bench:
    """A folder with a recipe of patient steps, whose package is installed for programs started here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "slow"
        self.folder.mkdir()
        (self.folder / "recipe.yaml").write_text(RECIPE)
        known = folder / "site" / "patience-1.0.dist-info"
        known.mkdir(parents=True)
        (folder / "site" / "patience_parts.py").write_text(STEPS)
        (known / "METADATA").write_text("Metadata-Version: 2.1\nName: patience\nVersion: 1.0\n")
        (known / "entry_points.txt").write_text("[luthier.parts]\npatience = patience_parts\n")
        paths = os.pathsep.join((str(folder / "site"), *sys.path))
        outside = {name: value for name, value in os.environ.items() if name not in ("LUTHIER_STORE", "LUTHIER_LEDGER")}
        self.environment = {**outside, "PYTHONPATH": paths, "LUTHIER_CACHE": own_cache(folder)}

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command in the folder."""
        command = [sys.executable, "-m", "luthier", *words]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return ready.Family(command, cwd=self.folder, env=self.environment, text=True, **pipes)

    def run(self, *words: str) -> tuple[int, dict[str, Any]]:
        """The exit code of a run, and what it prints."""
        process = self.start("run", "--json", *words)
        out, err = process.communicate(timeout=120)
        assert out, err
        return process.returncode, json.loads(out)

    @property
    def done(self) -> int:
        """Units that were kept."""
        (kept,) = (self.folder / ".luthier" / "work").glob("*/scratch/kept")
        return int(kept.read_text())

    @property
    def counted(self) -> float:
        """Seconds that were written down."""
        (file,) = (self.folder / ".luthier" / "spending").glob("*.json")
        return float(sum(seconds for seconds, _ in json.loads(file.read_text()).values()))


@pytest.mark.matrix("local")
@pytest.mark.parametrize("executor", ["local", "process"])
def test_a_run_stops_when_its_hours_are_spent_and_goes_on_with_more(tmp_path: Path, executor: str) -> None:
    slow = Bench(tmp_path)
    code, said = slow.run("--on", executor)
    assert (code, said["error"]["kind"]) == (130, "BudgetSpent")
    assert said["error"]["message"].startswith("the budget of 0.0002 hours is spent: ")
    assert "budget.hours=" in said["error"]["hint"]
    assert (Path(said["error"]["where"]["file"]).name, said["error"]["where"]["line"]) == ("recipe.yaml", 3)
    first = slow.done
    assert 0 < first < 20
    assert BUDGET_S <= slow.counted < BUDGET_S + 5
    code, said = slow.run("--on", executor)
    assert code == 130
    assert "'one' is not made yet" in said["error"]["message"]
    assert slow.done == first, "what is spent is spent: nothing more is done"
    code, said = slow.run("--on", executor, "budget.hours=1")
    assert code == 0
    made = Path(said["steps"]["one"]["path"])
    assert json.loads((made / "timing.json").read_text())["measures"]["begun"] == first
    assert slow.counted >= 2.0


def test_a_killed_run_is_counted_too(tmp_path: Path) -> None:
    slow = Bench(tmp_path)
    process = slow.start("run", "budget.hours=1", "steps.one.units=600")
    deadline = time.monotonic() + 60
    while not list(slow.folder.glob(".luthier/spending/*.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert slow.counted > 1.0
    code, said = slow.run("steps.one.units=600", "budget.hours=0.0003")
    assert (code, said["error"]["kind"]) == (130, "BudgetSpent")


def test_the_plan_warns_when_the_forecast_passes_the_budget(tmp_path: Path) -> None:
    slow = Bench(tmp_path)
    out, _ = slow.start("plan").communicate(timeout=60)
    assert "the forecast passes the budget of 0.0002 hours: " in out
    out, _ = slow.start("plan", "budget.hours=1").communicate(timeout=60)
    assert "budget" not in out


def test_a_budget_names_no_artifact(tmp_path: Path) -> None:
    small_recipe(tmp_path)
    workspace = Workspace.open(tmp_path)
    plain, bounded = (
        Recipe.load(tmp_path / "recipe.yaml", words, workspace) for words in ((), ("budget={hours: 6, money: 40}",))
    )
    assert [one.digest for one in plain.plan()] == [one.digest for one in bounded.plan()]


@pytest.mark.parametrize(
    ("budget", "message"),
    [("{}", "give hours, money or both"), ("{hours: 0}", "expected a number above 0"), ("{days: 1}", "days")],
)
def test_a_budget_that_bounds_nothing_is_refused(tmp_path: Path, budget: str, message: str) -> None:
    small_recipe(tmp_path)
    with pytest.raises(RecipeError, match=message):
        Recipe.load(tmp_path / "recipe.yaml", (f"budget={budget}",))


def test_a_training_that_a_budget_stops_ends_in_the_undisturbed_bytes(tmp_path: Path) -> None:
    """A real training, stopped after some of its steps by a clock that jumps, and gone on with."""
    folders = [tmp_path / name for name in ("calm", "wild")]
    found = []
    for folder in folders:
        folder.mkdir()
        small_recipe(folder)
    calm, wild = (
        Recipe.load(folder / "recipe.yaml", ("budget={hours: 1}",), Workspace.open(folder)) for folder in folders
    )
    found.append(run_recipe(calm))
    steps = [name for name, one in found[0].steps.items() if one.artifact.manifest.kind == "tune"]
    assert steps, "the recipe tunes"

    def stop_late(event: RunEvent) -> None:
        if event.step == steps[0] and event.kind == "progress" and event.done > event.total / 2:
            clock["jump"] = 7200.0

    clock, once = {"jump": 0.0}, time.monotonic
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BudgetMeter.__init__, "__defaults__", (lambda: once() + clock["jump"],))
        with pytest.raises(BudgetSpent):
            run_recipe(wild, RunEventEmitter(stop_late))
    found.append(run_recipe(wild.with_overrides({"budget.hours": 24})))
    one, other = ({name: step.artifact.manifest.files for name, step in run.steps.items()} for run in found)
    assert one == other


def test_money_is_counted_by_the_price_of_the_machine(tmp_path: Path) -> None:
    """An hour on two nodes of eight H100 at their list price; half of the budget goes in half of the time."""

    priced = SlurmExecutor(machine="h100", gpus=16, nodes=2)
    assert find_hourly_price(priced) == pytest.approx(6.88 * 16)
    assert find_hourly_price(LocalExecutor()) == 0.0
    assert find_hourly_price(SlurmExecutor()) == 0.0
    small_recipe(tmp_path)
    plan = Recipe.load(tmp_path / "recipe.yaml", ("budget={money: 100}",), Workspace.open(tmp_path)).plan()
    ahead = forecast_spending(plan, Placement(priced))
    here = forecast_spending(plan)
    assert here.money == 0.0 < ahead.money
    clock = {"now": 0.0}
    meter = BudgetMeter(plan, Placement(priced), clock=lambda: clock["now"])
    name = next(one.name for one in plan if not one.step.shared)
    meter(RunEvent(kind="start", step=name))
    clock["now"] = 600.0  # it waited for so long
    assert not meter(RunEvent(kind="progress", step=name, done=1, total=9))
    clock["now"] = 2400.0
    assert meter.spent.money == pytest.approx(55.04)
    meter(RunEvent(kind="failed", step=name))
    assert read_spending(plan) == Spending(1800.0, pytest.approx(55.04))
