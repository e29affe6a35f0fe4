"""Processes of one step: each scheduler gives them the variables of torchrun."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.core.errors import InputError
from luthier.recipe.executor import parse_executor
from luthier.recipe.executors.kubernetes import KubernetesExecutor
from luthier.recipe.executors.sky import SkyExecutor
from luthier.recipe.torchrun import NodeGroup, find_node_group, start_ranks
from tests.recipe.test_sky import job
from tests.test_every_executor import WHY_NOT, Site, scheduler

SHOW = """
import json, os
from pathlib import Path

if "SEEN" in os.environ and "RANK" in os.environ:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    Path(os.environ["SEEN"], os.environ["RANK"]).write_text(json.dumps({name: os.environ[name] for name in names}))
"""


@contextmanager
def processes_seen(site: Site, name: str) -> Iterator[Path]:
    """A folder into which each process of a group writes its variables when it loads its parts (`SEEN` names it)."""
    seen = site.folder / f"seen-{name}"
    seen.mkdir()
    with (site.folder / "site" / "toys.py").open("a") as parts:
        parts.write(SHOW)
    yield seen


def check_places(seen: Path, processes: int) -> None:
    """Two processes know which they are, here and in all, and where the first is."""
    found = [json.loads(path.read_text()) for path in sorted(seen.iterdir())]
    assert [one["RANK"] for one in found] == ["0", "1"]
    assert [one["LOCAL_RANK"] for one in found] == (["0", "1"] if processes == 2 else ["0", "0"])
    assert {one["WORLD_SIZE"] for one in found} == {"2"}
    (place,) = {(one["MASTER_ADDR"], one["MASTER_PORT"]) for one in found}
    assert place[0]
    assert 1024 < int(place[1]) < 65536


@pytest.mark.parametrize(
    ("kind", "nodes", "processes"),
    [
        ("slurm", 1, 2),
        ("kubernetes", 2, 1),
        pytest.param("kubernetes", 1, 2, marks=pytest.mark.slow),
        pytest.param("sky", 1, 2, marks=pytest.mark.slow),
    ],
)
def test_processes_of_a_job_know_their_place(tmp_path: Path, kind: str, nodes: int, processes: int) -> None:
    if reason := WHY_NOT.get(kind):
        pytest.skip(reason)
    site = Site(tmp_path)
    with processes_seen(site, kind) as seen, scheduler(kind, site) as (asked, cluster):
        settings: dict[str, Any] = yaml.safe_load(asked) | {"nodes": nodes, "processes_per_node": processes}
        if kind == "kubernetes":
            settings["env"] |= {"SEEN": str(seen)}
        site.environment |= {**cluster, "SEEN": str(seen)}
        if store := cluster.get("STORES"):
            site.environment["LUTHIER_STORE"] = f"{store}/group"
        run = site.start(site.recipe("group", "well"), "run", "--on", json.dumps(settings), "--json")
        out, err = run.communicate(timeout=200)
        assert json.loads(out).get("exit") == 0, out + err
        check_places(seen, processes)


def test_an_indexed_job_is_what_kubernetes_takes() -> None:
    validator = pytest.importorskip("kubernetes_validate")
    executor = KubernetesExecutor(image="luthier:1", nodes=3, processes_per_node=4, gpus=4)
    manifest = executor.manifest("luthier-0")
    validator.validate(json.loads(json.dumps(manifest)), "1.31", strict=True)
    assert (manifest["spec"]["completions"], manifest["spec"]["completionMode"]) == (3, "Indexed")
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    assert container["command"][-3:] == ["--processes", "4", "/etc/luthier/task.json"]


def test_sky_starts_as_many_machines(tmp_path: Path) -> None:
    task = yaml.safe_load(SkyExecutor(nodes=2).render_task(job(tmp_path)))
    assert task["num_nodes"] == 2
    assert task["run"].splitlines()[-1] == "python -P -m luthier make --processes 1 /tmp/luthier-task.json"


def test_each_cloud_says_which_machine_this_is(tmp_path: Path) -> None:
    none = tmp_path / "none"
    assert find_node_group({}, none) == NodeGroup(1, 0, "127.0.0.1", 29500)
    pet = {"PET_NNODES": "4", "PET_NODE_RANK": "3", "PET_MASTER_ADDR": "first", "PET_MASTER_PORT": "1234"}
    assert find_node_group(pet, none) == NodeGroup(4, 3, "first", 1234)
    sky = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": "1"}
    assert find_node_group(sky, none) == NodeGroup(2, 1, "10.0.0.1", 29500)
    pools = {"workerpool0": ["first-0:2222"], "workerpool1": ["a-0:2222", "b-1:2222"]}
    vertex = {"CLUSTER_SPEC": json.dumps({"cluster": pools, "task": {"type": "workerpool1", "index": 1}})}
    assert find_node_group(vertex, none) == NodeGroup(3, 2, "first-0", 29500)
    hosts = [f"algo-{number}" for number in range(1, 12)]
    (tmp_path / "resources.json").write_text(json.dumps({"current_host": "algo-10", "hosts": sorted(hosts)}))
    assert find_node_group({}, tmp_path / "resources.json") == NodeGroup(11, 9, "algo-1", 29500)


def test_standard_input_is_not_for_several() -> None:
    with pytest.raises(InputError, match="several processes"):
        start_ranks("-", 2)


def test_an_executor_says_how_many(tmp_path: Path) -> None:
    assert parse_executor(f"{{kind: slurm, nodes: 2, python: {sys.executable}}}").settings()["nodes"] == 2
    with pytest.raises(InputError):
        parse_executor("{kind: slurm, nodes: 0}")
