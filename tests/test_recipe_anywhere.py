"""`recipes/anywhere`: one recipe, made in several places with a store each, has one digest and one set of bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kubernetes_api import kubernetes_api, why_no_kubernetes
from ray_cluster import ray_cluster, why_no_ray
from slurm import slurm_cluster, why_no_slurm
from tests import ready
from tests.tiny_models import own_cache, tiny_model

RECIPES = Path(__file__).parents[1] / "recipes"
OFTEN = "poll_s: 0.1, grace_s: 5"
ELSEWHERE = ("kubernetes", "ray")
"""Places whose jobs are begun as those of the others: the quick suite makes a small step in them alone."""
SMALL = ("model=tiny-model", "steps.data.source.limit=40", "steps.data.split.test=8")


@contextmanager
def place(kind: str, folder: Path, cache: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """What `--on` says for a place, and the environment that leads there."""
    if kind == "slurm":
        with slurm_cluster(folder / "slurm") as cluster:
            yield f"{{kind: slurm, {OFTEN}}}", cluster
    elif kind == "kubernetes":
        with kubernetes_api(folder / "cluster") as (_, cluster):
            env = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
            settings = {
                "image": "luthier:1",
                "claim": "data",
                "mount": str(folder),
                "env": env,
                "python": sys.executable,
            }
            yield json.dumps({"kind": "kubernetes", "poll_s": 0.1, "grace_s": 5, **settings}), cluster
    elif kind == "ray":
        with ray_cluster() as address:
            env = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "LUTHIER_CACHE": cache}
            settings = {"address": address, "cpus": 1, "env": env, "python": sys.executable}
            yield json.dumps({"kind": "ray", "poll_s": 0.1, "grace_s": 5, **settings}), {}
    else:
        yield kind, {}


def make(kind: str, folder: Path, cache: str) -> dict[str, Any]:
    """Run the recipe in a place over a store of its own; by step its digest and its files."""
    shutil.copytree(RECIPES / "anywhere", folder / "recipes" / "anywhere")
    tiny_model(folder / "recipes" / "anywhere" / "tiny-model")
    outside = {name: value for name, value in os.environ.items() if name not in ("LUTHIER_STORE", "LUTHIER_LEDGER")}
    own = {"PYTHONPATH": os.pathsep.join(sys.path), "LUTHIER_CACHE": cache, "OMP_NUM_THREADS": "1"}
    with place(kind, folder, cache) as (words, cluster):
        command = [sys.executable, "-m", "luthier", "run", ".", "--json", "--only", "tune", "--on", words, *SMALL]
        where = folder / "recipes" / "anywhere"
        environment = {**outside, **own, **cluster}
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with ready.Family(command, cwd=where, env=environment, **pipes) as done:
            out, err = done.communicate(timeout=300)
    assert done.returncode == 0, err + out
    steps = json.loads(out)["steps"]
    found = {}
    for name in ("data", "tune"):
        manifest = json.loads((Path(steps[name]["path"]) / "manifest.json").read_text())
        assert not steps[name]["cached"]
        found[name] = steps[name]["artifact"], manifest["files"]
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return own_cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, cache: str) -> dict[str, Any]:
    return make("local", tmp_path_factory.mktemp("local"), cache)


@pytest.mark.matrix("slurm")
@pytest.mark.parametrize(
    "kind", ["process", "slurm", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ELSEWHERE)]
)
def test_the_same_bytes_under_the_same_name(kind: str, local: dict[str, Any], cache: str, tmp_path: Path) -> None:
    reasons = {"slurm": why_no_slurm, "kubernetes": why_no_kubernetes, "ray": why_no_ray}
    if kind in reasons and (reason := reasons[kind]()):
        pytest.skip(reason)
    assert make(kind, tmp_path, cache) == local


def test_the_readme_names_the_places_that_are_tried() -> None:
    text = (RECIPES / "anywhere" / "README.md").read_text(encoding="utf-8")
    assert all(word in text for word in ("--on process", "--on slurm", "kind: kubernetes", "kind: ray"))
