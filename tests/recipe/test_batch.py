"""Jobs of a scheduler: found again after a kill, one for each artifact, stopped with the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import DataError, InputError
from luthier.recipe.batch import get_job_name
from luthier.recipe.executor import StepTask, parse_placement, read_task
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from slurm import slurm_cluster, why_no_slurm
from tests.test_every_executor import Site

SLURM = "{kind: slurm, poll_s: 0.1, grace_s: 3}"
pytestmark = pytest.mark.skipif(bool(why_no_slurm()), reason=why_no_slurm())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose commands speak with a cluster."""
    found = Site(tmp_path_factory.mktemp("site"))
    with slurm_cluster(found.folder / "slurm") as cluster:
        found.environment |= cluster
        yield found


def jobs(site: Site) -> list[list[str]]:
    """Number, name, state of all jobs that Slurm remembers."""
    command = ["squeue", "--noheader", "--states=all", "--sort=i", "--format=%i|%j|%T"]
    done = subprocess.run(command, env=site.environment, capture_output=True, text=True, check=True)
    return [line.split("|") for line in done.stdout.splitlines()]


def run(site: Site, folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """The exit code of a run on the cluster, and what it prints."""
    process = site.start(folder, "run", "--on", SLURM, "--json", *words)
    out, err = process.communicate(timeout=200)
    assert out, err
    return process.returncode, json.loads(out)


def wait_until(what: Any, seconds: float = 60.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)


def name_of(site: Site, folder: Path) -> str:
    """The name of the job of a toy."""
    process = site.start(folder, "plan", "--json")
    out, _ = process.communicate(timeout=100)
    digest = json.loads(out)["steps"]["toy"]["artifact"]
    return get_job_name(Workspace(folder).open_store(), digest)


def launches(site: Site, folder: Path) -> list[dict[str, Any]]:
    """The jobs in the ledger, the latest first."""
    out, err = site.start(folder, "runs", "--json").communicate(timeout=100)
    assert out, err
    found: list[dict[str, Any]] = json.loads(out)["launches"]
    return found


@pytest.mark.slow  # that of Kubernetes does each time
def test_a_killed_run_finds_its_job_again(site: Site) -> None:
    folder = site.recipe("killed", "sleep")
    name = name_of(site, folder)
    first = site.start(folder, "run", "--on", SLURM)
    wait_until(lambda: list((folder / ".luthier").rglob("pid")))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = site.start(folder, "run", "--on", SLURM)
    assert second.stderr is not None
    heard = []
    for line in second.stderr:
        heard.append(line)
        if "of an earlier run is running" in line:
            break
    assert any(f"the job {name} of 'toy', handed to slurm by run" in line for line in heard)
    assert [job[1] for job in jobs(site)].count(name) == 1
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=60)
    assert second.returncode == 130
    wait_until(lambda: next(state for _, job, state in jobs(site) if job == name) not in ("RUNNING", "COMPLETING"))
    code, told = run(site, folder)  # it goes on from the scratch folder, which makes it end at once
    assert code == 0
    assert [(one["job"], one["state"]) for one in launches(site, folder)] == [(name, "done"), (name, "cancelled")]
    made = Path(told["steps"]["toy"]["path"])
    assert json.loads((made / "timing.json").read_text())["measures"] == {"went_on": True}


@pytest.mark.slow  # tests/test_every_executor.py
def test_a_job_that_dies_is_one_error_and_the_next_run_goes_on(site: Site) -> None:
    folder = site.recipe("dies", "die")
    code, told = run(site, folder)
    assert (code, told["error"]["kind"]) == (2, "JobFailed")
    assert "ended without an artifact (FAILED)" in told["error"]["message"]
    assert told["error"]["where"]["field"] == "steps.toy"
    code, told = run(site, folder)
    assert code == 0


def test_a_group_of_which_a_process_dies_is_submitted_again_as_a_whole(site: Site) -> None:
    folder = site.recipe("group", "die")
    group = json.dumps({"kind": "slurm", "poll_s": 0.1, "grace_s": 3, "processes_per_node": 2})
    out, err = site.start(folder, "run", "--on", group, "--json").communicate(timeout=200)
    assert json.loads(out).get("exit") == 0, out + err
    assert "was lost (" in err
    assert "submitted again, 1 of 3 times" in err
    assert [one["state"] for one in launches(site, folder)] == ["done", "failed"]
    once = json.dumps({**json.loads(group), "group_retries": 0})
    out, _ = site.start(site.recipe("once", "die"), "run", "--on", once, "--json").communicate(timeout=200)
    assert json.loads(out)["error"]["kind"] == "JobFailed"


def test_two_steps_that_are_one_artifact_follow_one_job(site: Site) -> None:
    folder = site.folder / "two"
    folder.mkdir()
    toys = "".join(f"  {name}: {{kind: toy, ends: second}}\n" for name in ("one", "other"))
    (folder / "recipe.yaml").write_text(f"luthier: 1\nname: toys\nsteps:\n{toys}")
    # two equal steps are one artifact: both follow one job
    code, told = run(site, folder)
    assert code == 2
    before = len(jobs(site))
    code, told = run(site, folder)
    assert code == 0
    assert len(jobs(site)) == before + 1
    assert told["steps"]["one"]["artifact"] == told["steps"]["other"]["artifact"]


def test_a_base_model_and_other_steps_stay_here(site: Site) -> None:
    folder = site.recipe("here", "well")
    before = len(jobs(site))
    process = site.start(folder, "run", "--on", SLURM, "--on", "toy=local", "--json")
    _, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert len(jobs(site)) == before


def test_an_unknown_step_and_a_bad_setting_are_refused(site: Site) -> None:
    folder = site.recipe("refused", "well")
    for words, said in {
        ("--on", "tuy=slurm"): "there is no step 'tuy'",
        ("--on", "{kind: slurm, memory: 8G; rm}"): "expected one word",
    }.items():
        process = site.start(folder, "run", *words)
        _, err = process.communicate(timeout=100)
        assert process.returncode == 2
        assert said in err, err


def task_of(site: Site, folder: Path) -> StepTask:
    os.environ["PYTHONPATH"] = site.environment["PYTHONPATH"]
    workspace = Workspace(folder)
    plan = build_recipe_plan(Recipe.load(workspace.find_recipe(None), (), workspace))
    return StepTask.of(plan, plan["data"])


RECIPE = """
luthier: 1
steps:
  data: {kind: prepare, source: {kind: csv, path: rows.csv, prompt: text, answer: label}}
"""


def test_a_task_of_other_code_or_other_rows_makes_nothing(tmp_path: Path, site: Site) -> None:
    (tmp_path / "rows.csv").write_text("text,label\nno,a\nyes,b\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    task = task_of(site, tmp_path)
    _, planned = task.open()
    assert planned.digest == task.digest
    with pytest.raises(DataError, match="is not that of who asked for it"):
        task.model_copy(update={"code": "other"}).open()
    (tmp_path / "rows.csv").write_text("text,label\nno,a\nyes,c\n")
    with pytest.raises(DataError, match="changed since the run began"):
        task.open()


def test_what_is_no_task_is_refused(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text('{"step": "tune"}')
    with pytest.raises(InputError, match="is no task of a step"):
        read_task(str(tmp_path / "task.json"))
    with pytest.raises(InputError, match="cannot be read"):
        read_task(str(tmp_path / "none.json"))


def test_placement_is_read_from_words() -> None:
    placement = parse_placement(["process", "tune=local", "tune={kind: slurm, partition: gpu}"])
    assert placement.default.kind == "process"
    assert placement.by_step["tune"].settings()["partition"] == "gpu"
