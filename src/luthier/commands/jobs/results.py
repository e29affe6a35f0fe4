"""Results of a finished job: a table of its steps' metrics, and its trained tokens."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact

if TYPE_CHECKING:
    from luthier.commands.jobs.files import UploadStore
    from luthier.commands.jobs.records import Upload

_FIRST = ("step", "train_loss", "valid_loss")
_NAMES = {
    "loss": "train_loss",
    "token_accuracy": "train_mean_token_accuracy",
    "held_out_loss": "valid_loss",
    "held_out_token_accuracy": "valid_mean_token_accuracy",
}
_WHOLE = {"valid_loss": "full_valid_loss", "valid_mean_token_accuracy": "full_valid_mean_token_accuracy"}


def to_openai_metrics(measures: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a step as OpenAI calls them. All rows of the validation file are measured each time, so that what
    is measured at a step is what is measured on the whole."""
    found = {_NAMES.get(name, name): value for name, value in measures.items()}
    return found | {whole: found[name] for name, whole in _WHOLE.items() if name in found}


def list_step_metrics(model: Artifact) -> Iterator[dict[str, Any]]:
    """The numbers of each step, as OpenAI calls them."""
    with model.path("log.jsonl").open("rb") as file:
        for line in file:
            yield to_openai_metrics(json.loads(line))


def write_step_metrics_file(files: UploadStore, key: str | None, model: Artifact) -> Upload:
    """Write the metrics of each training step as a result file of the job's owner."""
    columns = list(_FIRST)
    for row in list_step_metrics(model):
        columns += [name for name in row if name not in columns]
    with files.receiving(key, results=True) as incoming:
        sheet = csv.DictWriter(_Lines(incoming.write), columns, restval="", lineterminator="\n")
        sheet.writeheader()
        for row in list_step_metrics(model):
            sheet.writerow(row)
        return incoming.keep("step_metrics.csv", "fine-tune-results")


class _Lines:
    """The output of a table writer."""

    def __init__(self, write: Any) -> None:
        self._write = write

    def write(self, text: str) -> None:
        """Write one line."""
        self._write(text.encode())


def trained_tokens(model: Artifact) -> int:
    """Tokens of all rows, as often as they were seen."""
    import polars

    table = polars.read_parquet(model.path("training_examples.parquet"), columns=["seen", "tokens"])
    return int((table["seen"] * table["tokens"]).sum())
