"""Training in bf16 ends where training in fp32 ends: the real model on real headlines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from luthier.core.artifact import Artifact
from luthier.core.system.packages import cached_wheel
from luthier.recipe.schema import Recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "headlines"


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_bf16_ends_within_a_hundredth_of_fp32s_loss(
    tmp_path: Path, smollm2: Artifact, record_property: Callable[[str, object], None]
) -> None:
    """Mean loss over the second half of 25 steps of 8 headlines, with LoRA on all linear layers."""
    assert smollm2.manifest.makes == "model"
    source = Recipe.load(RECIPE).steps["data"].settings()["source"]
    if not cached_wheel(source["package"], source["version"], source["sha256"]):
        pytest.skip(f"the wheel {source['package']} is not in the cache; ./demo fetches it")
    shutil.copytree(RECIPE, tmp_path / "headlines", ignore=shutil.ignore_patterns(".luthier"))
    text = (tmp_path / "headlines" / "recipe.yaml").read_text().partition("  report:")[0]
    (tmp_path / "headlines" / "recipe.yaml").write_text(text)
    ends = {precision: _end(tmp_path / "headlines", precision) for precision in ("float32", "bfloat16")}
    record_property("mean_loss_over_the_last_half", ends)
    assert ends["bfloat16"] <= 1.01 * ends["float32"]


def _end(folder: Path, precision: str) -> float:
    tune = {"batch_size": 8, "dtype": precision}
    changes = [f"steps.tune.{name}={value}" for name, value in tune.items()]
    recipe = Recipe.load(folder, ["steps.data.split.train=200", "steps.data.split.test=20", *changes])
    log = (recipe.run()["tune"].artifact.folder / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in log]
    return sum(losses[len(losses) // 2 :]) / len(losses[len(losses) // 2 :])
