"""What `plan --on` prints of steps where they go, and what `doctor --on` finds: nothing that is not known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luthier import __version__
from luthier.commands import executor_health
from luthier.commands.executor_health import run_executor_checks
from luthier.core.revision import code_revision
from luthier.core.step import Step
from luthier.core.store import Store
from luthier.recipe.executor import parse_executor, parse_placement
from luthier.recipe.executors.slurm import SlurmExecutor
from luthier.recipe.machine_task import MachineReport
from luthier.recipe.placed_cost import estimate_placed_costs
from luthier.recipe.planner import RecipePlan
from luthier.recipe.workspace import Workspace
from tests import ready
from tests.recipe.test_step_placement import load


def placed(folder: Path, on: str, *words: str) -> Any:
    """The cost of the one step, where it goes."""
    (found,) = estimate_placed_costs(load(folder, on).plan(), parse_placement(words))
    return found


def test_on_this_machine_the_forecast_counts(tmp_path: Path) -> None:
    for words in ((), ("process",)):
        cost = placed(tmp_path, "", *words)
        assert cost.seconds[0] == cost.seconds[1] == cost.seconds[2] > 0
        assert cost.money == (0.0, 0.0, 0.0)


def test_without_a_machine_nothing_is_known(tmp_path: Path) -> None:
    cost = placed(tmp_path, "on: slurm")
    assert (cost.executor, cost.seconds, cost.memory, cost.bytes_sent, cost.money) == ("slurm", None, None, None, None)
    assert cost.how == "not known: the executor names no `machine`"
    assert placed(tmp_path, "on: {kind: slurm, machine: h100}").how.startswith("not known: the step trains no network")


def test_a_machine_gives_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def estimate(plan: RecipePlan, planned: Any, machine: str, count: int) -> Any:
        asked.append((machine, count))
        numbers = {"seconds": 60.0, "seconds_low": 50.0, "seconds_high": 90.0, "memory": 10, "bytes_sent": 5.0}
        return SimpleNamespace(**numbers, money=3.0, money_low=2.0, money_high=4.0, how="by a table")

    monkeypatch.setattr(RecipePlan, "estimate_placement", estimate)
    cost = placed(tmp_path, "", "data={kind: sky, accelerators: 'A100:8', nodes: 2}")
    assert asked == [("A100", 16)]
    assert cost.as_json() == {
        "executor": "sky",
        "seconds": {"low": 50.0, "expected": 60.0, "high": 90.0},
        "memory": 10,
        "bytes_sent": 5.0,
        "money": {"low": 2.0, "expected": 3.0, "high": 4.0},
        "how": "16 × A100; by a table",
    }


def test_a_machine_that_the_catalogue_lacks_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.models.machine_cost import find_machine

    monkeypatch.setattr(RecipePlan, "estimate_placement", lambda self, planned, machine, count: find_machine(machine))
    cost = placed(tmp_path, "on: {kind: sky, accelerators: 'K80:1'}")
    assert cost.how == "not known: there is no machine 'K80' in the catalogue"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in a folder."""
    command = [sys.executable, "-m", "luthier", *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LUTHIER_")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    return ready.run(command, cwd=folder, env=environment)


def test_the_command_prints_where_each_step_goes(tmp_path: Path) -> None:
    load(tmp_path, "on: {kind: slurm, partition: gpu}")
    shown = run(tmp_path, "plan")
    assert shown.returncode == 0, shown.stderr
    assert "slurm" in shown.stdout
    assert "not" in shown.stdout
    told = json.loads(run(tmp_path, "plan", "--on", "data=process", "--json").stdout)
    assert told["steps"]["data"]["placed"]["executor"] == "process"
    assert told["steps"]["data"]["predicted"]["seconds"] > 0
    wrong = run(tmp_path, "plan", "--on", "daty=process")
    assert (wrong.returncode, "there is no step 'daty'" in wrong.stderr) == (2, True)


def states(folder: Path, on: str) -> dict[str, str]:
    """What is found, and how good it is."""
    found = run_executor_checks(Workspace(folder), parse_executor(on))
    assert all(check.hint for check in found if check.state == "missing")
    return {check.what: check.state for check in found}


def test_the_doctor_tries_an_executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert states(tmp_path, "process") == {"store": "good", "executor": "good"}
    assert states(tmp_path, "{kind: ray, address: 'http://127.0.0.1:9'}")["scheduler"] == "missing"
    assert states(tmp_path, "sky") == {"store": "good", "client": "missing"}
    monkeypatch.setattr(SlurmExecutor, "find", lambda self, name: None)
    good = {"store": "good", "client": "good", "scheduler": "good", "code": "good"}
    assert states(tmp_path, "slurm") == good
    assert states(tmp_path, f"{{kind: slurm, python: {sys.executable}}}")["code"] in ("good", "missing")
    assert states(tmp_path, "{kind: slurm, python: /usr/bin/false}")["code"] == "missing"
    assert states(tmp_path, "{kind: slurm, python: python3}")["code"] == "note"
    assert list((tmp_path / ".luthier" / "tasks").iterdir()) == []


def test_the_doctor_tries_a_process(tmp_path: Path) -> None:
    found = run(tmp_path, "doctor", "--on", "process", "--job", "--json")
    assert found.returncode == 0, found.stdout + found.stderr
    checks = {entry["what"]: entry for entry in json.loads(found.stdout)["findings"]}
    assert [checks[what]["state"] for what in ("job", "code", "store of the job")] == ["good"] * 3
    assert "cores" in checks["processor of the job"]["came"]
    assert checks["GPU of the job"]["state"] in ("good", "note")
    assert list((tmp_path / ".luthier" / "tasks").iterdir()) == []
    assert run(tmp_path, "doctor", "--job").returncode == 2


def test_what_a_job_found_is_judged() -> None:
    def judge(on: str, **found: Any) -> dict[str, str]:
        mine = {"version": __version__, "code": code_revision(Step.__module__), "store": "", "cores": 4, "memory": 8}
        report = MachineReport.model_validate({**mine, "has_amx": False, "has_bf16": True, "gpus": (), **found})
        return {check.what: check.state for check in executor_health._check_report(parse_executor(on), report, 1.0)}

    assert judge("slurm") == {"job": "good", "code": "good", "store of the job": "good",
                              "processor of the job": "good", "GPU of the job": "note"}  # fmt: skip
    assert judge("{kind: slurm, gpus: 1}")["GPU of the job"] == "missing"
    assert judge("{kind: slurm, gpus: 1}", gpus=("H100",))["GPU of the job"] == "good"
    assert judge("slurm", code="other")["code"] == "missing"
    assert judge("slurm", store="two may write one artifact")["store of the job"] == "missing"


def test_the_doctor_finds_a_store_that_two_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    monkeypatch.setattr(Store, "lock", lambda self, digest, wait: nullcontext(True))
    assert executor_health._try_store(Store(tmp_path)) == "two may write one artifact"
    assert states(tmp_path, "process")["store"] == "missing"


def test_the_command_ends_as_the_doctor_does(tmp_path: Path) -> None:
    assert run(tmp_path, "doctor", "--on", "local").returncode == 0
    bad = run(tmp_path, "doctor", "--on", "{kind: ray, address: 'http://127.0.0.1:9'}", "--json")
    assert bad.returncode == 2
    assert json.loads(bad.stdout)["findings"][-1]["what"] == "scheduler"
