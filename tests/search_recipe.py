"""A recipe that searches a plain classifier of tickets, for the tests of searches."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.core.artifact import Artifact
from luthier.tune.techniques.plain import PlainTechnique
from tiny_models import own_cache, tickets, write_csv

RECIPE = """\
luthier: 1
name: tickets
seed: 3
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
    ops: [normalize, exact_dedup]
    split: {test: 60, validation: 60}
  tune: {kind: tune, data: data, technique: {kind: plain, c: 0.01}}
  best:
    kind: search
    of: tune
    over: {technique.c: {low: 0.01, high: 100, log: true}, technique.words: [1, 2]}
    metric: macro_f1
    budget: 3
    finalists: 2
"""
LORA = """\
luthier: 1
name: tickets
seed: 3
model: tiny-model
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
    ops: [normalize, exact_dedup]
    split: {test: 30, validation: 30}
  tune:
    kind: tune
    data: data
    technique: {kind: lora, r: 4}
    batch_size: 8
    learning_rate: 1.0e-2
    dtype: float32
  best:
    kind: search
    of: tune
    over: {technique: [lora, plain], learning_rate: [1.0e-3, 1.0e-2]}
    metric: accuracy
    budget: 3
    finalists: 1
    seeds: 1
  report: {kind: evaluate, data: data, model: best, tasks: []}
"""
COUNT = 300


def write_recipe(folder: Path, text: str = RECIPE, rows: int = COUNT) -> Path:
    """A folder with tickets and a recipe that searches."""
    folder.mkdir(exist_ok=True)
    write_csv(folder / "tickets.csv", tickets(rows))
    (folder / "recipe.yaml").write_text(text)
    return folder / "recipe.yaml"


def files_of(artifact: Artifact) -> dict[str, str]:
    """The digest of each file."""
    return {entry.path: entry.digest for entry in artifact.manifest.files}


def run_command(folder: Path, cache: Path, *overrides: str) -> subprocess.Popen[str]:
    """`luthier run` in a folder, of the recipe with overrides."""
    environment = {**os.environ, "LUTHIER_CACHE": own_cache(cache)}
    command = [sys.executable, "-m", "luthier", "run", "recipe.yaml", *overrides]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )


def break_fit(monkeypatch: pytest.MonkeyPatch, error: Callable[[PlainTechnique], BaseException | None]) -> None:
    """Let trainings end with an error where there is one."""
    fit = PlainTechnique.fit

    def break_it(self: PlainTechnique, *given: Any) -> Any:
        if (found := error(self)) is not None:
            raise found
        return fit(self, *given)

    monkeypatch.setattr(PlainTechnique, "fit", break_it)
