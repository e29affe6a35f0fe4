"""Supervised fine-tuning: make the given answers likely."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luthier.chat.messages import Example, Message
from luthier.core.component import add_field_descriptions
from luthier.core.errors import DataError, SourceLocation, did_you_mean
from luthier.tune.objective import FIRST, NOTHING, Loss, LossTerms, Objective, ObjectiveContext, TrainingExample

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.chat.tokenizer import ChatTokenizer, EncodedChat
    from luthier.models.packing.pack import Pack, TokenRow

UNWANTED = "its label is false: nobody wants this answer"
"""Reason for leaving out rows of KTO data that are rated bad."""
TOO_LONG = "longer than {limit} tokens"


class TurnSelector(BaseModel):
    """Selects assistant turns by their tag or name; `*` matches any characters."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    tag: str | None = Field(default=None, min_length=1)
    """The message's `tag`."""
    name: str | None = Field(default=None, min_length=1)
    """The message's `name` (its speaker)."""

    @model_validator(mode="after")
    def _says_something(self) -> TurnSelector:
        if self.tag is None and self.name is None:
            raise ValueError("expected a `tag`, a `name`, or both")
        return self

    def matches(self, message: Message) -> bool:
        """Return whether a message is selected."""
        pairs = ((self.tag, message.tag), (self.name, message.name))
        return all(pattern is None or fnmatchcase(value or "", pattern) for pattern, value in pairs)


class Sft(Objective):
    """The negative log-likelihood of the answers' tokens, averaged over all learnt tokens of a step."""

    kind: Literal["sft"] = "sft"
    measured: ClassVar[tuple[str, ...]] = ("token_accuracy",)
    wants_first: ClassVar[bool] = True
    other_names: ClassVar[Mapping[str, str]] = {
        "max_seq_length": "max_length",
        "cutoff_len": "max_length",
        "sequence_len": "max_length",
        "truncation_mode": "truncation",
        "assistant_only_loss": "train_on",
        "completion_only_loss": "train_on",
    }

    train_on: Literal["last", "all"] | TurnSelector = "last"
    """Which assistant turns are learnt: the last one, all of a conversation, or those with a tag or a name, such as
    `{tag: gold}`. Turns that the data marks with `weight: 0` or `train: false` are never learnt."""
    weight: str | None = None
    """A column of the data that says how much each row counts (0: not at all); all count the same when not given."""
    max_length: int = Field(default=2048, ge=2)
    """Rows with more tokens than this fall under `truncation`."""
    truncation: Literal["drop", "prompt", "right"] = "drop"
    """What becomes of rows that are too long: left out whole; the oldest tokens of the prompt go; or the end of the row
    goes. Each is counted, listed in `training_examples.parquet` and warned of. Left out by default: a row that lost
    its question teaches to guess."""
    average: Literal["token", "row"] = "token"
    """Whether every learnt token counts the same, or every row (long answers then weigh no more than short ones)."""

    def build_training_examples(
        self, examples: Sequence[Example], text: ChatTokenizer, about: ObjectiveContext = NOTHING
    ) -> list[TrainingExample]:
        """Return one row for each example: its whole conversation, with the selected turns trained on."""
        limit = None if self.truncation == "drop" else self.max_length
        rows = text.encode_many(
            [example.messages for example in examples],
            [example.tools for example in examples],
            learn=self.train_on if isinstance(self.train_on, str) else self.train_on.matches,
            max_tokens=limit,
            cut="prompt" if self.truncation == "drop" else self.truncation,
        )
        return [self._build_example(example, row) for example, row in zip(examples, rows, strict=True)]

    def _build_example(self, example: Example, row: EncodedChat) -> TrainingExample:
        from luthier.models.packing.pack import TokenRow

        key, weight = example.id, read_example_weight(example, self.weight)
        if example.meta.get("label") is False:
            return TrainingExample(id=key, nothing=UNWANTED)
        if not weight:
            return TrainingExample(id=key, nothing=f"its {self.weight} is 0")
        if len(row.ids) > self.max_length:
            return TrainingExample(id=key, cut=len(row.ids), nothing=TOO_LONG.format(limit=self.max_length))
        if row.nothing or not any(row.loss_mask[1:]):
            return TrainingExample(
                id=key, cut=row.removed, nothing=row.nothing or "only its first token would be learnt"
            )
        share = weight / sum(row.loss_mask[1:]) if self.average == "row" else weight
        loss_weights = [share if trained else 0.0 for trained in row.loss_mask]
        return TrainingExample(id=key, rows=(TokenRow(row.ids, loss_weights, key),), cut=row.removed)

    def denominator(self, rows: Sequence[TokenRow]) -> float:
        """Return the total weight of the trained tokens."""
        return sum(row.loss_weights[at] for row in rows for at in row.targets)

    def loss(self, logp: Tensor, pack: Pack, reference: Tensor | None) -> Loss:
        """Return minus the log-probability of each token; as a measure, the weight of the tokens that were the top
        prediction.
        """
        weights = pack.weights.to(logp)
        measures = {"token_accuracy": weights * pack.token_values[FIRST]} if FIRST in pack.token_values else {}
        return Loss([LossTerms.of_tokens(-logp, weights, pack)], measures)


def read_example_weight(example: Example, column: str | None) -> float:
    """Return the weight of an example: 1, or the number in a column of its data; `DataError` when that is
    not a number.
    """
    if column is None:
        return 1.0
    origin = example.origin
    where = SourceLocation(file=origin.file, line=origin.line, field=column)
    if column not in example.meta:
        raise DataError(
            f"the row has no {column!r} to be weighed by", where=where, hint=did_you_mean(column, example.meta)
        )
    value = example.meta[column]
    try:
        weight = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise DataError(f"expected a weight of 0 or more, got {value!r}", where=where)
    return weight
