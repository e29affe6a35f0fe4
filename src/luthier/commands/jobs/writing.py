"""Writes a job's recipe, which `luthier run` can run as well."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from luthier.auto.advice.training import ROWS_PER_STEP, suggest_training
from luthier.commands.jobs.check import TrainingFileSummary
from luthier.commands.jobs.records import FineTuningJob, JobRequest
from luthier.commands.jobs.tunable import TunableModel
from luthier.core.files import write_atomically
from luthier.recipe.models import open_base_model
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace

RECIPE, TRAINING, VALIDATION = "recipe.yaml", "training.jsonl", "validation.jsonl"
TUNE, EPOCH = "tune", "epoch_"
_KEPT = 2
"""Models after epochs before the last that a job keeps: three in all, as at OpenAI."""
_CKPT = ":ckpt-step-"
_LONGEST_MODEL = 40
_LONGEST_RATE = 3


class JobTrainingData(NamedTuple):
    """A job's training data, in its folder."""

    training: Path
    rows: TrainingFileSummary
    validation: Path | None = None
    held_out: int = 0
    """Rows of the validation file."""


def resolve_auto_hyperparameters(request: JobRequest, rows: TrainingFileSummary) -> dict[str, Any]:
    """Return the values of `auto`, as `luthier new` would choose them."""
    found = suggest_training(rows.rows, rows.classes).settings
    decided = {
        "n_epochs": found.get("epochs", 1),
        "batch_size": min(found.get("batch_size", ROWS_PER_STEP), rows.rows),
        "learning_rate_multiplier": 1.0,
        "beta": 0.1,
    }
    return {name: decided[name] for name, value in request.hyperparameters.items() if value == "auto"}


def write_job_recipe(folder: Path, job: FineTuningJob, tunable: TunableModel, material: JobTrainingData) -> Path:
    """Write a job's recipe next to its files (`link_or_copy_file`)."""
    text = yaml.safe_dump(_recipe(job, tunable, material, folder), sort_keys=False, allow_unicode=True, width=100)
    path = folder / RECIPE
    write_atomically(path, f"# Written for {job.id}; `luthier run {path}` makes the same.\n{text}".encode())
    return path


def link_or_copy_file(source: Path, to: Path) -> None:
    """Hard-link a file, or copy it where that is impossible: nobody can delete its bytes under a job."""
    to.parent.parent.mkdir(0o700, parents=True, exist_ok=True)
    to.parent.mkdir(0o700, exist_ok=True)
    try:
        os.link(source, to)
    except OSError:
        shutil.copyfile(source, to)


def _recipe(job: FineTuningJob, tunable: TunableModel, material: JobTrainingData, folder: Path) -> dict[str, Any]:
    plain = {"kind": "prepare", "source": {"kind": "jsonl", "path": TRAINING}, "split": {"test": 0}, "task": "text"}
    steps: dict[str, Any] = {"data": plain}
    if material.validation is not None:
        split = {"test": 0, "validation": material.held_out, "train": 0}
        held = {**plain, "source": {"kind": "jsonl", "path": VALIDATION}, "split": split}
        mixed = {"kind": "mix", "data": ["training", "validation"]}
        steps = {"training": plain, "validation": held, "data": mixed}
    steps[TUNE] = _tune(job, material)
    for epoch in range(1, int(job.hyperparameters["n_epochs"]))[-_KEPT:]:
        steps[f"{EPOCH}{epoch}"] = {"kind": "epoch", "tuned": TUNE, "epoch": epoch}
    recipe = {"luthier": 1, "name": job.id.lower(), "seed": job.request.seed, "model": tunable.word, "steps": steps}
    multiplier = job.hyperparameters["learning_rate_multiplier"]
    if multiplier != 1:
        steps[TUNE]["learning_rate"] = _rate(recipe, folder, float(multiplier), tunable)
    return recipe


def _tune(job: FineTuningJob, material: JobTrainingData) -> dict[str, Any]:
    hyperparameters = job.hyperparameters
    supervised = job.request.method == "supervised"
    objective = (
        {"kind": "sft", "train_on": "all"} if supervised else {"kind": "dpo", "beta": float(hyperparameters["beta"])}
    )
    validation = {"validation": {"rows": "validation", "keep": "last"}} if material.validation is not None else {}
    return {
        "kind": "tune",
        "data": "data",
        "technique": {"kind": "lora"},
        "objective": objective,
        "epochs": hyperparameters["n_epochs"],
        **({"save_epochs": kept} if (kept := min(_KEPT, int(hyperparameters["n_epochs"]) - 1)) else {}),
        "batch_size": hyperparameters["batch_size"],
        **validation,
    }


def _rate(recipe_data: dict[str, Any], folder: Path, multiplier: float, tunable: TunableModel) -> float:
    """Return the default learning rate times a multiplier."""
    from luthier.models.describe import describe_model_folder
    from luthier.recipe.yaml import LocatedYaml
    from luthier.tune.steps.tune import Tune

    recipe = Recipe.of(LocatedYaml(file=RECIPE, data=recipe_data, lines={}), Workspace(folder))
    step = recipe.steps[TUNE]
    assert isinstance(step, Tune)
    model = describe_model_folder(open_base_model(recipe.workspace, tunable.word).folder)
    usual = step.rate_for(step.technique, model)  # type: ignore[arg-type]  # LoRA
    return float(f"{usual.value * multiplier:.{_LONGEST_RATE}g}")


def build_served_model_name(job: FineTuningJob) -> str:
    """The name under which what comes of a job is served: `ft:MODEL:luthier:SUFFIX:…`."""
    model = job.request.model.split(":")[1] if job.request.model.startswith("ft:") else job.request.model
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-")[:_LONGEST_MODEL]
    return f"ft:{base}:luthier:{job.request.suffix or ''}:{job.id.removeprefix('ftjob-')[:8]}"


def checkpoint_name(model: str, step: int) -> str:
    """The name under which what a job's model was after a step is served."""
    return f"{model}{_CKPT}{step}"


def strip_checkpoint_step(model: str) -> str:
    """Return the name of a job's model from that of a checkpoint; any other name is unchanged."""
    return model.partition(_CKPT)[0]
