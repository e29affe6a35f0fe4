"""Reward models: a number for an answer, higher for the one that people prefer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.core.errors import DataError, Where
from luthier.models.sequence import REWARD, without_padding
from luthier.text.messages import Example
from luthier.text.preference import number_of
from luthier.tune.objective import NOTHING, About, Lesson, Loss, of_rows
from luthier.tune.pairs import PairObjective, pair_lessons, ranking, sides

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.pack import Pack, Row
    from luthier.text.ids import Text

TIE = "a tie: its {column} is 0"
_MARGIN = "margin"


class Reward(PairObjective):
    """-log σ(r - s - m), with r and s the rewards of the preferred and of the other answer and m the margin between
    them, averaged over the pairs of a step (Bradley and Terry, 1952; margins: Touvron et al., 2023).

    The reward is read by a sequence head with one output, which begins at zero, after the last token of the
    conversation: transformers' `AutoModelForSequenceClassification`.
    """

    kind: Literal["reward"] = "reward"

    margin: str | None = None
    """A column that says by how much the preferred answer is better; the rewards must then differ by `scale` times as
    much. A margin of 0 is a tie. None: all pairs count alike."""
    scale: float = Field(default=1.0, gt=0)
    """What the margins of the data are multiplied by."""
    ties: Literal["drop", "learn"] = "drop"
    """Whether pairs with a margin of 0 are left out, or taught to be equal: half the loss of either order."""
    center: float = Field(default=0.0, ge=0)
    """Weight of (r + s)², which keeps rewards around zero (Eisenstein et al., 2023); 0.01 is usual, 0: none."""

    def outputs(self, about: About) -> tuple[str, ...]:
        """One output, read as it is."""
        return (REWARD,)

    def lessons(self, examples: Sequence[Example], text: Text, about: About = NOTHING) -> list[Lesson]:
        """For each example the whole conversations of its two answers, the preferred one first."""
        pad = text.tokenizer.pad_token_id
        found = pair_lessons(examples, text, self.max_tokens)
        return [self._scored(*one, pad) for one in zip(examples, found, strict=True)]

    def _scored(self, example: Example, lesson: Lesson, pad: int | None) -> Lesson:
        if not lesson.rows:
            return lesson
        margin = self._margin(example)
        if margin == 0 and self.margin is not None and self.ties == "drop":
            return Lesson(id=example.id, nothing=TIE.format(column=self.margin))
        return replace(lesson, rows=tuple(_whole(row, pad, margin) for row in lesson.rows))

    def _margin(self, example: Example) -> float:
        if self.margin is None:
            return 0.0
        found = number_of(example, self.margin)
        if found is None or found < 0:
            origin = example.origin
            where = Where(file=origin.file, line=origin.line, field=self.margin)
            came = example.meta.get(self.margin)
            raise DataError(f"wanted a margin of 0 or more, got {came!r}", where=where, remedy="swap the two answers")
        return self.scale * found

    def loss(self, logp: Tensor, pack: Pack, reference: Tensor | None) -> Loss:
        """The sum over the pairs, from (rows,) rewards."""
        from torch.nn.functional import logsigmoid

        better, worse = sides(logp, pack)
        margin = sides(of_rows(_MARGIN, pack).to(logp), pack)[0]
        losses = -logsigmoid(better - worse - margin)
        if self.ties == "learn" and self.margin is not None:
            either = -(logsigmoid(better - worse) + logsigmoid(worse - better)) / 2
            losses = either.where(margin == 0, losses)
        total = losses.sum()
        if self.center:
            total = total + self.center * ((better + worse) ** 2).sum()
        return Loss(total, ranking(better, worse))


def _whole(row: Row, pad: int | None, margin: float) -> Row:
    """A whole conversation, read where transformers reads it, and the number of the one output."""
    ids = without_padding(row.ids, pad)
    return replace(row, ids=[*ids, 0], learnt=[0.0] * len(ids) + [1.0], told={_MARGIN: [margin]})
