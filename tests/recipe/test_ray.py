"""Jobs of a real Ray cluster of this machine: what is sent, a killed run, a stop, and a group of processes on nodes."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from luthier.core.errors import InputError, SystemResourceError
from luthier.core.store import Store
from luthier.core.system.process import is_process_gone, unique_process_name_of
from luthier.data.engine.ray_workers import RAY_WORKERS_VARIABLE, RayWorkers
from luthier.recipe import scheduler_api
from luthier.recipe.batch import BatchJob, get_job_name
from luthier.recipe.executors.ray import RayExecutor
from luthier.recipe.workspace import Workspace
from ray_cluster import ray_cluster, why_no_ray
from tests.recipe.test_torchrun import check_places, processes_seen
from tests.test_every_executor import Site
from tests.tiny_models import own_cache

OPERATOR = """
import os, signal
from pathlib import Path
from typing import ClassVar, Literal

from luthier.data.operator import OperatorResult, RowOperator


class Mortal(RowOperator):
    '''Counts characters; the worker that is the first to see a row dies.'''

    kind: Literal["mortal"] = "mortal"
    writes: ClassVar[dict[str, str]] = {"size": "count"}
    mark: str = ""

    def apply(self, rows):
        if os.environ.get("LUTHIER_RAY_WORKERS") and any("7" in row.prompt for row in rows):
            try:
                (Path(self.mark) / "died").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        with (Path(self.mark) / "pids").open("a") as file:
            file.write(f"{os.getpid()}\\n")
        return OperatorResult(attributes={"size": [len(row.prompt) for row in rows]})
"""
NASTY = "x$(touch {0}) `touch {0}`\ntouch {0}\n'\"; touch {0}"
needs_ray = pytest.mark.skipif(bool(why_no_ray()), reason=why_no_ray())


def job(folder: Path, location: str = "/stores/tasks/0/task.json") -> BatchJob:
    """A job whose task holds a secret of its user."""
    return BatchJob("luthier-0123456789abcdef", '{"text": "row of a person"}', folder / "output", location)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with ray_cluster(nodes=2) as url:
        yield url


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site whose folder the cluster shares."""
    return Site(tmp_path_factory.mktemp("site"))


def wait_until(what: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)


def script(path: Path, text: str) -> str:
    """A program."""
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_an_order_holds_the_place_of_the_task_alone(tmp_path: Path) -> None:
    executor = RayExecutor(cpus=2, gpus=0.5, memory="1.5G", resources={"spot": 1}, env={"MODE": "a b"})
    order = executor.order(job(tmp_path))
    assert order == {
        "entrypoint": "exec python -P -m luthier make /stores/tasks/0/task.json",
        "runtime_env": {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120", "MODE": "a b"}},
        "metadata": {"name": "luthier-0123456789abcdef"},
        "entrypoint_num_cpus": 2.0,
        "entrypoint_num_gpus": 0.5,
        "entrypoint_memory": 3 << 29,
        "entrypoint_resources": {"spot": 1.0},
    }
    assert "row of a person" not in json.dumps(order)
    several = RayExecutor(nodes=2, processes_per_node=4, gpus=4, resources={"spot": 1}).order(job(tmp_path))
    words = "--nodes=2 --processes=4 --gpus=4 --resource=spot=1 /stores/tasks/0/task.json"
    assert several["entrypoint"].endswith(f"python -P -m luthier.recipe.ray_nodes {words}")
    assert several["entrypoint_num_cpus"] == 0


@pytest.mark.parametrize(
    "settings",
    [{"address": "http://head:8265/$(x)"}, {"address": "head"}, {"memory": "8G; rm"}, {"env": {"A B": "x"}},
     {"resources": {"a;b": 1}}, {"nodes": 0}, {"cpus": 0}],
)  # fmt: skip
def test_a_setting_that_is_no_word_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RayExecutor.model_validate(settings)


def test_passwords_and_memory_of_several_nodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which Ray would show") as error:
        RayExecutor(address="http://127.0.0.1:9").submit(job(tmp_path, "s3://me:pass-word@host/tasks/0/task.json"))
    assert "pass-word" not in str(error.value)
    with pytest.raises(InputError, match="jobs of one node"):
        RayExecutor(nodes=2, memory="8G").check_reach(tmp_path, Store(tmp_path))


def test_a_cluster_that_is_away_is_one_error_without_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-secret-token")
    monkeypatch.setattr(scheduler_api, "_PATIENCE_S", 0.1)
    with pytest.raises(SystemResourceError, match="Ray cannot be reached") as error:
        RayExecutor(address="http://127.0.0.1:9").find("luthier-0")
    assert "running again finds them" in error.value.hint
    assert "a-secret-token" not in str(error.value)


@needs_ray
def test_a_place_is_data_for_the_shell(cluster: str, tmp_path: Path) -> None:
    show = script(tmp_path / "show $(x)", 'printf "%s\\n" "$@"; echo "threads: ${OMP_NUM_THREADS:-free}"')
    location = f"{NASTY.format(tmp_path / 'harm')}/tasks/0/task.json"
    executor = RayExecutor(address=cluster, python=show)
    executor.submit(job(tmp_path, location))
    wait_until(lambda: (found := executor.find("luthier-0123456789abcdef")) and found.state == "ended")
    output = executor.read_output("luthier-0123456789abcdef")
    assert location in output
    assert "threads: free" in output
    assert not (tmp_path / "harm").exists()
    executor.submit(job(tmp_path, location))  # an ended one is no hindrance
    wait_until(lambda: (found := executor.find("luthier-0123456789abcdef")) and found.state == "ended")


@needs_ray
def test_submitting_twice_makes_one_job_and_a_stop_is_told(cluster: str, tmp_path: Path) -> None:
    slow = script(tmp_path / "slow", "trap 'echo told; exit 5' TERM; echo begun; sleep 60 & wait")
    executor = RayExecutor(address=cluster, python=slow)
    executor.submit(job(tmp_path))
    executor.submit(job(tmp_path))
    jobs = [found for found in httpx.get(f"{cluster}/api/jobs/").json() if found["status"] in ("PENDING", "RUNNING")]
    assert len([found for found in jobs if found["submission_id"].startswith("luthier-0123456789abcdef")]) == 1
    wait_until(lambda: "begun" in executor.read_output("luthier-0123456789abcdef"))
    executor.cancel_job("luthier-0123456789abcdef")
    wait_until(lambda: (found := executor.find("luthier-0123456789abcdef")) and found.state == "ended")
    assert "told" in executor.read_output("luthier-0123456789abcdef")
    executor.cancel_job("luthier-that-is-not-there")


def settings(site: Site, cluster: str, **more: Any) -> str:
    """The executor whose jobs have the site's package."""
    env = {"PYTHONPATH": site.environment["PYTHONPATH"], "LUTHIER_CACHE": own_cache(site.folder)}
    found = {"kind": "ray", "address": cluster, "env": env, "python": sys.executable, "poll_s": 0.1, "grace_s": 5}
    return json.dumps({**found, **more})


@needs_ray
def test_a_killed_run_finds_its_job_again(cluster: str, site: Site) -> None:
    folder, on = site.recipe("killed", "sleep"), settings(site, cluster)
    out, _ = site.start(folder, "plan", "--json").communicate(timeout=100)
    name = get_job_name(Workspace(folder).open_store(), json.loads(out)["steps"]["toy"]["artifact"])
    first = site.start(folder, "run", "--on", on)
    wait_until(lambda: list((folder / ".luthier").rglob("pid")))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = site.start(folder, "run", "--on", on)
    assert second.stderr is not None
    assert any("of an earlier run is running" in line for line in second.stderr)
    assert [found["metadata"]["name"] for found in httpx.get(f"{cluster}/api/jobs/").json()].count(name) == 1
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=60)
    assert second.returncode == 130
    wait_until(lambda: RayExecutor(address=cluster).find(name).state == "ended")  # type: ignore[union-attr]
    third = site.start(folder, "run", "--on", on, "--json")
    out, err = third.communicate(timeout=100)
    assert third.returncode == 0, err
    made = Path(json.loads(out)["steps"]["toy"]["path"])
    assert json.loads((made / "timing.json").read_text())["measures"] == {"went_on": True}


@needs_ray
@pytest.mark.parametrize(("nodes", "processes"), [pytest.param(1, 2, marks=pytest.mark.slow), (2, 1)])
def test_processes_of_a_job_know_their_place(cluster: str, site: Site, nodes: int, processes: int) -> None:
    with processes_seen(site, f"group-{nodes}") as seen:
        found = json.loads(settings(site, cluster, nodes=nodes, processes_per_node=processes))
        on = json.dumps(found | {"env": found["env"] | {"SEEN": str(seen)}})
        out, _ = site.start(site.recipe(f"group-{nodes}", "well"), "run", "--on", on, "--json").communicate(timeout=200)
        assert json.loads(out).get("exit") == 0, out
        check_places(seen, processes)


@needs_ray
def test_a_stop_reaches_every_node(cluster: str, site: Site) -> None:
    folder, on = site.recipe("stopped", "sleep"), settings(site, cluster, nodes=2)
    run = site.start(folder, "run", "--on", on)
    wait_until(lambda: list((folder / ".luthier").rglob("pid")), 120)
    (path,) = (folder / ".luthier").rglob("pid")
    name = unique_process_name_of(int(path.read_text()))
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=120)
    assert run.returncode == 130
    wait_until(lambda: is_process_gone(name))
    assert list((folder / ".luthier").rglob("mark"))  # what it wrote is kept for the next run


@pytest.mark.slow
@needs_ray
def test_rows_go_through_workers_of_the_cluster_in_the_same_bytes(cluster: str, site: Site) -> None:
    """One worker is killed on the way."""
    known = site.folder / "site" / "mortals-1.0.dist-info"
    known.mkdir()
    (site.folder / "site" / "mortals.py").write_text(OPERATOR)
    (known / "METADATA").write_text("Metadata-Version: 2.1\nName: mortals\nVersion: 1.0\n")
    (known / "entry_points.txt").write_text("[luthier.parts]\nmortals = mortals\n")
    made = {}
    for name, on in (("at-home", "local"), ("away", settings(site, cluster, workers=2))):
        folder = site.folder / name
        folder.mkdir()
        rows = "".join(f"request {number},answer {number % 9}\n" for number in range(6000))
        (folder / "rows.csv").write_text(f"prompt,answer\n{rows}")
        source = {"kind": "csv", "path": "rows.csv", "prompt": "prompt", "answer": "answer"}
        ops = [
            {"kind": "mortal", "mark": str(site.folder)},
            {"kind": "exact_dedup"},
            {"kind": "length", "unit": "characters", "min": 10},
        ]
        recipe = {"luthier": 1, "name": "rows", "steps": {"data": {"kind": "prepare", "source": source, "ops": ops}}}
        (folder / "recipe.yaml").write_text(json.dumps(recipe))
        out, err = site.start(folder, "run", "--on", on, "--json").communicate(timeout=200)
        assert json.loads(out).get("exit") == 0, out + err
        path = Path(json.loads(out)["steps"]["data"]["path"])
        made[name] = json.loads((path / "manifest.json").read_text())
        if name == "at-home":
            (site.folder / "pids").unlink()
    assert (site.folder / "died").exists()
    assert made["away"] == made["at-home"]
    assert len(set((site.folder / "pids").read_text().split())) >= 2


@needs_ray
def test_workers_without_a_cluster_are_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="jobs of one process"):
        RayExecutor(nodes=2, workers=2).check_reach(Path(), Store(Path()))
    assert RayWorkers.of_job(print) is None
    monkeypatch.setenv(RAY_WORKERS_VARIABLE, "3")
    found = RayWorkers.of_job(print)
    assert found is not None
    assert found.count == 3
