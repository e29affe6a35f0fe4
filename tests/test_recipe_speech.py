"""The recipe of speech on a tiny Whisper: from sounds to a report that says how much of the score needs them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.report import write_report
from luthier.recipe.schema import Recipe
from spoken import tiny_speech

HERE = Path(__file__).parents[1] / "recipes" / "speech"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_sounds_are_prepared_learnt_and_measured(tmp_path: Path) -> None:
    shutil.copytree(HERE, tmp_path / "speech")
    tiny_speech(tmp_path / "speech" / "whisper", english=True)
    overrides = (
        "model=whisper",
        "steps.data.split={train: 24, test: 6}",
        "steps.tune.epochs=1",
        "steps.gate.rules=['wer >= 0.0', 'wer < blind + 100']",
    )
    result = Recipe.load(tmp_path / "speech", overrides).run()
    metrics = result["report"].artifact.read_json("metrics.json")["models"]
    assert {"tuned", "base", "blind", "nearest"} <= set(metrics)
    assert {"wer", "cer"} <= set(metrics["tuned"])
    assert (result["tune"].artifact.folder / "adapter" / "adapter_model.safetensors").is_file()
    report = write_report(build_recipe_plan(result.recipe)).read_text(encoding="utf-8")
    assert "the same model given silence" in report
