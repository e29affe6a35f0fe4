"""What became of one example in an evaluation: how each model answered it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from luthier.core.artifact import Artifact
from luthier.eval.tables import PREDICTIONS


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One model's answer to one example."""

    row: str
    """The example's id, with the turn's number where conversations were asked turn by turn."""
    model: str
    reference: str
    prediction: str
    correct: bool | None
    """None for texts."""
    scores: dict[str, float] | None
    """Log-scores of the labels, when it chose among labels."""

    def as_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return dict(vars(self))


def answers(evaluation: Artifact, example_id: str) -> list[Answered]:
    """How each model of an evaluation answered an example, in the evaluation's order; empty when it was not asked."""
    import polars as pl

    rows = pl.read_parquet(evaluation.path(PREDICTIONS))
    rows = rows.filter(pl.col("id").str.split("/").list.first() == example_id)
    return [
        Answered(
            row=row["id"],
            model=row["model"],
            reference=row["reference"],
            prediction=row["prediction"],
            correct=row["correct"],
            scores=json.loads(row["scores"]) if row["scores"] is not None else None,
        )
        for row in rows.iter_rows(named=True)
    ]
