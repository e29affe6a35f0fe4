"""Validation during training: which rows are held out, when training stops early, and which weights are kept.

All decisions follow from settings, seed and log, so a resumed run decides as an undisturbed one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luthier.artifacts.dataset import DatasetSummary, has_split, read_example_batches, read_split_columns
from luthier.chat.messages import Example, prompt_of
from luthier.core.artifact import Artifact
from luthier.core.component import add_field_descriptions, refuse_unknown_settings
from luthier.core.errors import DataError, RecipeError, SourceLocation
from luthier.metrics.metric import Metric

if TYPE_CHECKING:
    import numpy

    from luthier.tune.objective import Objective

HELD_OUT = "held out"
"""The reason in `training_examples.parquet` for a row that was only measured."""
USUAL_SHARE = 0.05
"""Share of the training rows that is held back when the data set has no validation split."""


class ValidationSettings(BaseModel):
    """Settings of validation during training: which rows, how often, and early stopping."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra=add_field_descriptions, allow_inf_nan=False
    )

    rows: Literal["auto", "validation"] | Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] = "auto"
    """`validation`: that split of the data set. A count, or a share below 1: training rows that are held back, chosen
    by content and seed, rows of one group or with one prompt together. `auto`: the validation split when there is one,
    else 5 % of the training rows."""
    every: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Steps between two measurements, or the share of all steps; the last step is always measured."""
    metric: Literal["loss", "margin"] | Metric = "loss"
    """The deciding measure: the objective's own loss on these rows; for pairs of answers `accuracy` (how many are
    ranked as people do) or `margin` (by how much); for labels any metric of labels, computed by the code of `evaluate`.
    The loss is measured in any case."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Number of measurements in a row without improvement after which training stops; never when not given."""
    min_delta: float = Field(default=0.0, ge=0)
    """The least improvement that counts as better."""
    keep: Literal["best", "last"] = "best"
    """Which weights are saved: those of the best measurement, or those of the last step."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        return refuse_unknown_settings(cls, value)

    def is_due(self, step: int, steps: int) -> bool:
        """Return whether to measure after a step (from 1)."""
        return step % self.count_steps_between(steps) == 0 or step == steps

    def count_steps_between(self, steps: int) -> int:
        """Return the steps from one measurement to the next, in a training of `steps` steps."""
        return self.every if isinstance(self.every, int) else max(1, round(self.every * steps))

    @property
    def name(self) -> str:
        """Name of the deciding measure in the log."""
        return f"held_out_{self.metric if isinstance(self.metric, str) else self.metric.kind}"

    @property
    def sign(self) -> float:
        """-1 where lower is better, else 1."""
        lower = self.metric == "loss" if isinstance(self.metric, str) else self.metric.better == "lower"
        return -1.0 if lower else 1.0


@dataclass(frozen=True)
class BestCheckpoint:
    """The best validation result so far, its step, and the number of validations since."""

    step: int = 0
    """The step of the best measurement; 0 when there was none."""
    value: float | None = None
    since: int = 0
    """Number of measurements after the best one."""


def update_best_checkpoint(
    held_out: ValidationSettings, before: BestCheckpoint, step: int, value: float | None
) -> BestCheckpoint:
    """Return the best checkpoint after a step and its measurement, if there was one."""
    if value is None:
        return before
    better = before.value is None or held_out.sign * (value - before.value) > held_out.min_delta
    return BestCheckpoint(step, value) if better else BestCheckpoint(before.step, before.value, before.since + 1)


class HeldOutSplit(NamedTuple):
    """Indices of rows in a split of the data set."""

    split: str
    """Where the held-out rows are: `train` or `validation`."""
    held: Sequence[int]
    rest: Sequence[int]
    """Indices of the training rows that may be trained on."""


def split_held_out(held_out: ValidationSettings | None, data: Artifact, seed: int, used: int | None) -> HeldOutSplit:
    """Choose the rows that are held out; a share is one of the rows that are `used` (None: all)."""
    count = DatasetSummary.read(data).rows["train"]
    if held_out is None:
        return HeldOutSplit("train", (), range(count))
    requested = held_out.rows
    if requested == "validation" or (requested == "auto" and has_split(data, "validation")):
        if not has_split(data, "validation"):
            hint = "set `split: {validation: 0.1}` in `prepare`, or hold back a share of the training rows"
            raise DataError("the data set has no validation split", where=_WHERE, hint=hint)
        return HeldOutSplit("validation", range(DatasetSummary.read(data).rows["validation"]), range(count))
    share = USUAL_SHARE if isinstance(requested, str) else requested
    number = share if isinstance(share, int) else max(1, round(share * min(count, used or count)))
    return _hold_back(data, seed, number)


def _hold_back(data: Artifact, seed: int, requested: int) -> HeldOutSplit:
    """Hold back whole groups in the order of their hashes, until there are enough rows."""
    import numpy

    hashes = _hash_groups(data, seed)
    units, sizes = numpy.unique(hashes, return_counts=True)
    enough = int(numpy.searchsorted(sizes.cumsum(), requested)) + 1
    if enough >= len(units):
        what = f"{requested} of {len(hashes)} training rows cannot be held back: nothing would be left to learn"
        raise DataError(what, where=_WHERE, hint="hold back fewer")
    held = hashes <= units[enough - 1]
    return HeldOutSplit("train", numpy.flatnonzero(held).tolist(), numpy.flatnonzero(~held).tolist())


def _hash_groups(data: Artifact, seed: int) -> numpy.ndarray[Any, numpy.dtype[numpy.uint64]]:
    """(rows,) a hash of each training row's group, or else of its prompt, and the seed."""
    import numpy
    import xxhash

    def unit_hash(row: dict[str, Any]) -> int:
        unit = row["group"] if row["group"] is not None else _prompt(row["messages"])
        return xxhash.xxh3_64_intdigest(f"{seed}\0{unit}".encode())

    hashes = (unit_hash(row) for row in read_split_columns(data, "train", "messages", "group"))
    return numpy.fromiter(hashes, dtype=numpy.uint64)


def _prompt(messages: str) -> str:
    turns = json.loads(messages)
    return json.dumps(turns[:-1] if turns and turns[-1]["role"] == "assistant" else turns, sort_keys=True)


_WHERE = SourceLocation(field="validation.rows")


def is_objective_metric(metric: str | Metric, objective: Objective) -> bool:
    """Return whether the objective computes this metric itself, on whatever rows it trains on."""
    name = metric if isinstance(metric, str) else metric.kind
    return name == "loss" or name in objective.measured


def check_metric(held_out: ValidationSettings, data: Artifact, objective: Objective) -> None:
    """Raise `RecipeError` when the deciding metric cannot be measured on the data set's task."""
    where, metric = SourceLocation(field="validation.metric"), held_out.metric
    if is_objective_metric(metric, objective):
        return
    if isinstance(metric, str):
        what = f"{metric} is measured on pairs of answers, and {objective.kind} learns from none"
        raise RecipeError(what, where=where, hint="use loss")
    if DatasetSummary.read(data).task != "label":
        what = f"{metric.kind} is measured on labels, and the data set holds texts"
        raise RecipeError(what, where=where, hint="use loss")
    if "logprobs" in metric.needs:
        raise RecipeError(f"{metric.kind} is about texts, not labels", where=where, hint="use loss")


def read_labeled_examples(data: Artifact, parted: HeldOutSplit) -> list[Example]:
    """Return the held-out examples that have a question and a label."""
    examples = [example for some in read_example_batches(data, parted.split, parted.held) for example in some]
    return [example for example in examples if example.label is not None and example.messages and prompt_of(example)]
