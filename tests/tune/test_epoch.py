"""Weights that a training keeps after its epochs: those of a training that ends there, whatever happens on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars
import pytest
import torch

from luthier.cli.app import run_command
from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.core.events import RunEventEmitter
from luthier.core.hashing import digest_of
from luthier.core.step import PlanContext, StepContext
from luthier.models.export.checkpoint import export_model_folder
from luthier.models.load import load_model
from luthier.recipe.models import find_model, is_classification_model
from luthier.recipe.schema import Recipe
from luthier.tune.dataset.validation import ValidationSettings
from luthier.tune.steps.epoch import SelectCheckpoint
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.full import FullFineTuning
from luthier.tune.techniques.lora import Lora
from tests.targets import target
from tiny_models import RECIPE, own_cache, small_recipe
from tuning import TuneEnv, finish, interrupted, make_env

QUICK: dict[str, Any] = {
    "data": "data", "batch_size": 20, "learning_rate": 1e-2, "dtype": "float32", "lr_scheduler": "constant",
    "warmup_ratio": 0,
}  # fmt: skip
"""48 rows: the epochs end within the steps 3 and 5 and with the last, 8."""


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def taken(env: TuneEnv, tuned: Artifact, epoch: int, base: Artifact | None = None) -> Artifact:
    """What the step `epoch` makes of a training."""
    digest, base = digest_of([tuned.digest, epoch]), base or env.base
    folder, scratch = env.store.begin(digest)
    inputs = {"tuned": tuned, "model": base}
    events = RunEventEmitter(env.heard.append).of("early")
    work = StepContext(
        name="early", inputs=inputs, folder=folder, scratch=scratch, recipe_dir=folder, seed=0, events=events
    )
    SelectCheckpoint(tuned="tune", epoch=epoch).make(work)
    named = {name: one.digest for name, one in inputs.items()}
    return finish(env.store, digest, "epoch", "model", named)


def logits(artifact: Artifact) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = load_model(artifact, "float32").model(torch.arange(40, 60)[None]).logits
    return found


@pytest.mark.matrix("lora")
@pytest.mark.parametrize("technique", [Lora(r=4), FullFineTuning()], ids=["lora", "full"])
def test_an_epoch_is_the_model_of_a_training_that_ends_there(env: TuneEnv, technique: Any, tmp_path: Path) -> None:
    settings = {**QUICK, "technique": technique, "learning_rate": 1e-3 if technique.kind == "full" else 1e-2}
    made = env.tune(Tune(**settings, epochs=3, save_epochs=2))
    assert not torch.equal(logits(made), logits(env.base))
    for epoch, steps in ((1, 3), (2, 5)):
        ended = env.tune(Tune(**settings, epochs=20 * steps / 48))
        early = taken(env, made, epoch)
        assert torch.equal(logits(early), logits(ended))
        assert not torch.equal(logits(early), logits(made))
        for name in ("log.jsonl", "training_examples.parquet"):
            assert early.path(name).read_bytes() == ended.path(name).read_bytes(), name
        mine, other = (one.read_json("training.json") for one in (early, ended))
        assert mine == {**other, "epoch": epoch}
        assert is_classification_model(early)
    export_model_folder(taken(env, made, 1), tmp_path / "out", "adapter" if technique.kind == "lora" else "hf")
    assert any((tmp_path / "out").glob("*.safetensors"))


def test_what_is_kept_changes_nothing_else(env: TuneEnv) -> None:
    one, other = env.tune(Tune(**QUICK, epochs=3)), env.tune(Tune(**QUICK, epochs=3, save_epochs=1))
    more = {entry.path: entry.digest for entry in other.manifest.files if not entry.path.startswith("epochs/")}
    assert more == {entry.path: entry.digest for entry in one.manifest.files}
    assert {entry.path.split("/")[1] for entry in other.manifest.files if entry.path.startswith("epochs/")} == {"2"}


@pytest.mark.matrix("3")
@pytest.mark.parametrize("before", [3, 4, 6])
def test_epochs_outlive_a_training_that_is_stopped(env: TuneEnv, tmp_path: Path, before: int) -> None:
    step = Tune(**QUICK, epochs=3, save_epochs=2, ema=0.9, save_steps=2)
    whole, stopped = env.tune(step), make_env(tmp_path)
    interrupted(stopped, step, before)
    assert stopped.tune(step).manifest.files == whole.manifest.files


def test_held_out_rows_are_measured_where_an_epoch_is_kept(env: TuneEnv) -> None:
    made = env.tune(
        Tune(**QUICK, epochs=3, save_epochs=2, validation=ValidationSettings(rows=8, every=100, keep="last"))
    )
    lines = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "held_out_loss" in line] == [2, 4, 6]
    early = taken(env, made, 1)
    assert early.read_json("training.json")["held_out"]["saved_step"] == 2
    learnt = polars.read_parquet(early.path("training_examples.parquet"))
    assert learnt["taught"].to_list() == learnt["seen"].to_list()


def test_an_epoch_that_training_never_came_to_is_told(env: TuneEnv) -> None:
    stops = ValidationSettings(rows=8, every=1, patience=1, min_delta=100, keep="last")
    made = env.tune(Tune(**QUICK, epochs=3, save_epochs=2, validation=stops))
    assert [text for text in env.said("warning") if text.startswith("epoch 2 did not end")]
    with pytest.raises(ModelError, match="keeps no model after epoch 2: it keeps those after 1"):
        taken(env, made, 2)


def test_another_base_is_refused(env: TuneEnv) -> None:
    made = env.tune(Tune(**QUICK, epochs=3, save_epochs=1))
    with pytest.raises(ModelError, match="tuned from another model"):
        taken(env, made, 2, base=env.teacher)


@pytest.mark.parametrize(("kept", "epoch"), [(0, 1), (1, 1), (2, 3)])
def test_what_will_not_be_kept_is_refused_before_anything_is_made(env: TuneEnv, kept: int, epoch: int) -> None:
    outlook = PlanContext(inputs={}, upstream={"tuned": Tune(**QUICK, epochs=3, save_epochs=kept)}, recipe_dir=Path())
    with pytest.raises(ModelError, match=f"keeps no model after epoch {epoch}"):
        SelectCheckpoint(tuned="tune", epoch=epoch).estimate_cost(outlook)


@pytest.mark.parametrize(("epochs", "most"), [(1.0, 0), (2.5, 2)])
def test_no_more_epochs_are_kept_than_end(epochs: float, most: int) -> None:
    if most:
        assert list(Tune(data="data", epochs=epochs, save_epochs=most).kept_epochs) == [1, 2]
    with pytest.raises(ValueError, match="the last epoch is kept anyway"):
        Tune(data="data", epochs=epochs, save_epochs=most + 1)


EARLY = RECIPE.replace("    batch_size: 8\n", "    batch_size: 8\n    epochs: 2\n    save_epochs: 1\n").replace(
    "  report:\n", "  early: {kind: epoch, tuned: tune, epoch: 1}\n  report:\n"
)


def test_a_recipe_evaluates_an_epoch_and_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = small_recipe(tmp_path, EARLY.replace("model: tune\n", "model: early\n    compare_with: tune\n"))
    made = Recipe.load(path).run()
    early = made["early"].artifact
    assert set(early.manifest.inputs) == {"model", "tuned"}
    assert early.read_json("training.json")["rows_seen"] == 64
    assert set(made["report"].artifact.read_json("metrics.json")["models"]) >= {"tuned", "against", "base"}
    assert run_command(["report", "--to", "out.html"]) == 0
    assert find_model(target())[0] == "tickets:tune", "what the recipe tunes is not what it was on the way"


def test_another_base_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    apart = EARLY.replace("tuned: tune, epoch: 1", "tuned: tune, epoch: 1, model: tune")
    with pytest.raises(ModelError, match="tuned from another model") as caught:
        Recipe.load(small_recipe(tmp_path, apart)).plan()
    assert caught.value.where.line
