"""The recipe of four branches, run on a tiny model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from luthier.recipe.schema import Recipe
from tiny_models import own_cache, tiny_model

ROOT = Path(__file__).parents[2] / "recipes"


@pytest.mark.slow
def test_four_branches_tune_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    for name in ("federated", "support"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns(".luthier"))
    tiny_model(tmp_path / "federated" / "tiny-model")
    changes = ["model=tiny-model", "steps.tune.rounds=2", "steps.tune.local={steps: 1}", "steps.tune.secure={}"]
    recipe = Recipe.load(tmp_path / "federated", [*changes, "steps.tune.tune.objective={kind: sft, max_length: 128}"])
    made = recipe.run(only=["tune"])["tune"].artifact
    rounds = made.read_json("federation.json")["rounds"]
    assert [set(entry["sites"]) for entry in rounds] == [{"north", "south", "east", "west"}] * 2
