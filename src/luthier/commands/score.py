"""Files of predictions measured, after scorers have given their rows further numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from luthier.core.context import RunContext
from luthier.core.events import StepEventEmitter
from luthier.core.scorer import Scorer
from luthier.metrics.files import add_scorer_columns, parse_component_spec, read_prediction_file, score_predictions
from luthier.recipe.models import download_model
from luthier.recipe.workspace import Workspace


def score_file(
    workspace: Workspace,
    path: Path,
    metrics: Sequence[str] = (),
    scorers: Sequence[str] = (),
    *,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure a file of predictions; what scorers paid for is kept in `.luthier-scores` beside it."""
    chosen = [parse_component_spec(Scorer, word) for word in scorers]
    path = workspace.resolve(path)
    file = read_prediction_file(path)
    if chosen:
        kept = path.parent / ".luthier-scores"
        kept.mkdir(exist_ok=True)
        file = add_scorer_columns(
            file,
            chosen,
            RunContext(
                recipe_dir=workspace.folder,
                kept=kept,
                events=StepEventEmitter.saying(say),
                models=partial(_folder, workspace),
            ),
        )
    return score_predictions(file, metrics)


def _folder(workspace: Workspace, name: str) -> Path:
    """A model's folder: as it lies, or brought here."""
    there = workspace.resolve(name)
    return there if (there / "config.json").is_file() else download_model(workspace, name)
