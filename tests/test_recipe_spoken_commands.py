"""The recipe of spoken commands on a tiny decoder and a tiny Whisper: from sounds to a report that says they count."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.report import write_report
from luthier.recipe.schema import Recipe
from spoken import tiny_speech
from tiny_models import tiny_model

HERE = Path(__file__).parents[1] / "recipes" / "spoken-commands"


def test_the_script_makes_the_same_sounds() -> None:
    script = runpy.run_path(str(HERE / "speak.py"))
    rows = pq.read_table(HERE / "commands.parquet").slice(0, 3).to_pylist()
    for at, row in enumerate(rows):
        assert script["write_wav"](script["speak"](row["command"], at)) == row["audio"]["bytes"]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_commands_are_prepared_learnt_and_measured(tmp_path: Path) -> None:
    shutil.copytree(HERE, tmp_path / "commands")
    tiny_model(tmp_path / "commands" / "decoder")
    tiny_speech(tmp_path / "commands" / "small-whisper", english=True)
    overrides = (
        "model=decoder",
        "steps.data.split={train: 64, test: 8}",
        "steps.whisper.source={kind: folder, path: small-whisper}",
        "steps.ears.seconds=1",
        "steps.hear.epochs=1",
        "steps.tune.epochs=1",
        "steps.gate.rules=['accuracy >= 0.0', 'accuracy >= blind - 1.0']",
    )
    result = Recipe.load(tmp_path / "commands", overrides).run()
    metrics = result["report"].artifact.read_json("metrics.json")["models"]
    assert {"tuned", "base", "blind", "majority", "media"} <= set(metrics)
    adapter = result["tune"].artifact.folder / "adapter"
    assert (adapter / "adapter_model.safetensors").is_file()
    report = write_report(build_recipe_plan(result.recipe)).read_text(encoding="utf-8")
    assert "given silence, the same model scores" in report
