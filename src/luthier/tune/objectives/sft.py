"""Supervised fine-tuning: make the given answers likely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.text.messages import Example
from luthier.tune.objective import Lesson, Loss, Objective

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.pack import Pack, Row
    from luthier.text.ids import Encoded, Text

TOO_LONG = "longer than {limit} tokens"


class Sft(Objective):
    """The negative log-likelihood of the answers' tokens, averaged over all learnt tokens of a step."""

    kind: Literal["sft"] = "sft"

    learn: Literal["last", "all"] = "last"
    """Which assistant turns are learnt: the last one, or all of a conversation."""
    max_tokens: int = Field(default=2048, ge=2)
    """Rows with more tokens than this fall under `too_long`."""
    too_long: Literal["drop", "prompt", "right"] = "drop"
    """What becomes of rows that are too long: left out whole; the oldest tokens of the prompt go; or the end of the row
    goes. Each is counted, listed in `learnt.parquet` and warned of. Left out by default: a row that lost its question
    teaches to guess."""
    average: Literal["token", "row"] = "token"
    """Whether every learnt token counts the same, or every row (long answers then weigh no more than short ones)."""

    def lessons(self, examples: Sequence[Example], text: Text) -> list[Lesson]:
        """One row for each example: its whole conversation, the chosen turns learnt."""
        limit = None if self.too_long == "drop" else self.max_tokens
        rows = text.encode_many(
            [example.messages for example in examples],
            [example.tools for example in examples],
            learn=self.learn,
            max_tokens=limit,
            cut="prompt" if self.too_long == "drop" else self.too_long,
        )
        return [self._lesson(example.id, row) for example, row in zip(examples, rows, strict=True)]

    def _lesson(self, key: str, row: Encoded) -> Lesson:
        from luthier.models.pack import Row

        if len(row.ids) > self.max_tokens:
            return Lesson(id=key, cut=len(row.ids), nothing=TOO_LONG.format(limit=self.max_tokens))
        if row.nothing or not any(row.learnt[1:]):
            return Lesson(id=key, cut=row.removed, nothing=row.nothing or "only its first token would be learnt")
        share = 1.0 / sum(row.learnt[1:]) if self.average == "row" else 1.0
        learnt = [share if wanted else 0.0 for wanted in row.learnt]
        return Lesson(id=key, rows=(Row(row.ids, learnt, key),), cut=row.removed)

    def denominator(self, rows: Sequence[Row]) -> float:
        """The weight of all learnt tokens."""
        return sum(row.learnt[at] for row in rows for at in row.targets)

    def loss(self, logp: Tensor, pack: Pack, reference: Tensor | None) -> Loss:
        """Minus the weighted sum of log-probabilities."""
        return Loss(-(logp * pack.weights.to(logp.dtype)).sum())
