"""Predictions of an evaluation: write and read them, and the probabilities of labels."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact
from luthier.core.errors import UnknownName, did_you_mean
from luthier.core.files import translate_write_errors
from luthier.core.hashing import canonical_json
from luthier.eval.task import HeldOutTask, Reply, list_conversation_ids, rows_to_columns
from luthier.metrics.metric import EvalPredictions

if TYPE_CHECKING:
    from luthier.eval.task import Reply

PREDICTIONS = "predictions.parquet"


def write_predictions(path: Path, task: HeldOutTask, replies: Mapping[str, Sequence[Reply]]) -> None:
    """Write all models' replies, model by model in their order, rows in the data's order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        _row(example.id, model, reference, reply, correct)
        for model, model_replies in replies.items()
        for example, reference, reply, correct in zip(
            task.examples, task.references, model_replies, task.correct(model_replies), strict=True
        )
    ]
    text, whole, flag, real = pa.string(), pa.int64(), pa.bool_(), pa.float64()
    types = {
        "id": text,
        "model": text,
        "reference": text,
        "prediction": text,
        "correct": flag,
        "scores": text,
        "tokens": whole,
        "finished": flag,
        "logprob": real,
        "reference_tokens": whole,
    }
    if any(reply.columns for model_replies in replies.values() for reply in model_replies):
        types["columns"] = text
    with translate_write_errors(path):
        pq.write_table(pa.Table.from_pylist(rows, pa.schema(list(types.items()))), path, compression="zstd")


def _row(name: str, model: str, reference: str, reply: Reply, correct: bool | None) -> dict[str, Any]:
    scores = None if reply.scores is None else canonical_json(dict(reply.scores))
    fixed = {"id": name, "model": model, "reference": reference, "correct": correct}
    columns = None if reply.columns is None else canonical_json(dict(reply.columns))
    return {**vars(reply), **fixed, "scores": scores, "columns": columns}


def read_answers(evaluation: Artifact, model: str) -> tuple[list[str], EvalPredictions]:
    """Read the row ids and one model's answers from an evaluation, so that any metric can be computed without the
    model."""
    import polars as pl

    frame = pl.read_parquet(evaluation.path(PREDICTIONS))
    mine = frame.filter(pl.col("model") == model)
    if mine.is_empty():
        known = frame["model"].unique().to_list()
        raise UnknownName(f"the evaluation has no answers of {model!r}", hint=did_you_mean(model, known))

    def column(name: str) -> list[Any] | None:
        values = mine[name].to_list()
        return None if any(value is None for value in values) else values

    scores = column("scores")
    answers = EvalPredictions.of(
        mine["prediction"].to_list(),
        mine["reference"].to_list(),
        label_scores=None if scores is None else [json.loads(row) for row in scores],
        logprobs=column("logprob"),
        tokens=column("reference_tokens"),
        columns=rows_to_columns([json.loads(row) for row in mine["columns"]]) if "columns" in mine.columns else None,
        clusters=list_conversation_ids(mine["id"].to_list()),
    )
    return mine["id"].to_list(), answers


@dataclass(frozen=True, kw_only=True)
class ModelAnswer:
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


def find_example_answers(evaluation: Artifact, example_id: str) -> list[ModelAnswer]:
    """Return each model's answer to an example, in the evaluation's order; empty when it was not evaluated."""
    import polars as pl

    rows = pl.read_parquet(evaluation.path(PREDICTIONS))
    rows = rows.filter(pl.col("id").str.split("/").list.first() == example_id)
    return [
        ModelAnswer(
            row=row["id"],
            model=row["model"],
            reference=row["reference"],
            prediction=row["prediction"],
            correct=row["correct"],
            scores=json.loads(row["scores"]) if row["scores"] is not None else None,
        )
        for row in rows.iter_rows(named=True)
    ]


def softmax_scores(scores: Mapping[str, float]) -> dict[str, float]:
    """The softmax of log-scores."""
    most = max(scores.values())
    shares = {label: math.exp(score - most) for label, score in scores.items()}
    total = sum(shares.values())
    return {label: value / total for label, value in shares.items()}


def compute_label_probabilities(reply: Reply, labels: Sequence[str]) -> list[float]:
    """Each label's probability; all of it on the answer where a model gives no scores."""
    if reply.scores is None:
        return [float(reply.prediction == label) for label in labels]
    found = softmax_scores(reply.scores)
    return [found[label] for label in labels]
