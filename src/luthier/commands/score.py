"""Files of predictions measured, after scorers have given their rows further numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from luthier.core.scorer import Scorer, ScorerContext
from luthier.metrics.files import add_scorer_columns, parse_component_spec, read_prediction_file, score_predictions
from luthier.recipe.models import download_model


def score_file(
    path: Path, metrics: Sequence[str] = (), scorers: Sequence[str] = (), *, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure a file of predictions; what scorers paid for is kept in `.luthier-scores` beside it."""
    chosen = [parse_component_spec(Scorer, word) for word in scorers]
    file = read_prediction_file(path)
    if chosen:
        kept = path.parent / ".luthier-scores"
        kept.mkdir(exist_ok=True)
        file = add_scorer_columns(file, chosen, ScorerContext(base=Path(), kept=kept, say=say, model=_folder))
    return score_predictions(file, metrics)


def _folder(name: str) -> Path:
    """A model's folder: as it lies, or brought here."""
    there = Path(name)
    return there if (there / "config.json").is_file() else download_model(name)
