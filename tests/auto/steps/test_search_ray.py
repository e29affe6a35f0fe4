"""Trials of a search as jobs of a real Ray cluster of this machine: the choice is that of one process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from luthier.core.events import RunEvent, RunEventEmitter
from luthier.recipe.schema import Recipe
from search_recipe import files_of, write_recipe
from tiny_models import own_cache

ray = pytest.importorskip("ray_cluster", reason="needs the cluster of the executor `ray`")
SMALL = (
    "steps.best.over={technique.c: [0.01, 10]}",
    "steps.best.budget=2",
    "steps.best.finalists=1",
    "steps.best.seeds=1",
)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(bool(ray.why_no_ray()), reason=ray.why_no_ray())
def test_trials_are_jobs_of_a_cluster_and_choose_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    here = Recipe.load(write_recipe(tmp_path / "here"), SMALL).run(progress=False)["best"].artifact
    heard: list[RunEvent] = []
    with ray.ray_cluster(cpus=2) as url:
        recipe = Recipe.load(write_recipe(tmp_path / "there"), [*SMALL, "steps.best.workers=2"])
        on = f"tune={{kind: ray, address: '{url}', cpus: 1, python: '{sys.executable}', poll_s: 0.3}}"
        best = recipe.run(RunEventEmitter(heard.append), on=on)["best"].artifact
    assert best.digest == here.digest
    assert files_of(best) == files_of(here)
    submitted = {event.step for event in heard if event.text.startswith("submitted the job")}
    assert {"tune", "best.0-tune", "best.1-tune", "best.1-validation"} <= submitted
