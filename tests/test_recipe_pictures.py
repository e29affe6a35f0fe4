"""The recipe of pictures on a tiny decoder: from pictures to a report that says how much of the score needs them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.report import write_report
from luthier.recipe.schema import Recipe
from tiny_models import tiny_model

HERE = Path(__file__).parents[1] / "recipes" / "pictures"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_pictures_are_prepared_learnt_and_measured(tmp_path: Path) -> None:
    shutil.copytree(HERE, tmp_path / "pictures")
    tiny_model(tmp_path / "pictures" / "decoder")
    overrides = (
        "model=decoder",
        "steps.data.split={train: 64, test: 8}",
        "steps.eyes.encoder={hidden_size: 16, layers: 1, heads: 2}",
        "steps.look.epochs=1",
        "steps.tune.epochs=1",
        "steps.gate.rules=['accuracy >= 0.0', 'accuracy >= blind - 1.0']",
    )
    result = Recipe.load(tmp_path / "pictures", overrides).run()
    metrics = result["report"].artifact.read_json("metrics.json")["models"]
    assert {"tuned", "base", "blind", "majority"} <= set(metrics)
    adapter = result["tune"].artifact.folder / "adapter"
    assert (adapter / "adapter_model.safetensors").is_file()
    report = write_report(build_recipe_plan(result.recipe)).read_text(encoding="utf-8")
    assert "shown grey pictures, the same model scores" in report
