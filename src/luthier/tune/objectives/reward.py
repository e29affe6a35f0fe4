"""Reward models: a number for an answer, higher for the one that people prefer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from luthier.chat.judge_prompt import YesNoJudgePrompt
from luthier.chat.messages import Example
from luthier.chat.preference import PreferencePair, column_number_of
from luthier.core.errors import DataError, SourceLocation
from luthier.core.param_space import ParamDistribution
from luthier.models.sequence_head import REWARD, get_padding_id, strip_padding
from luthier.tune.objective import (
    NOTHING,
    Loss,
    LossTerms,
    ObjectiveContext,
    TrainingExample,
    get_row_values,
    group_rows_by_example,
    row_sums,
)
from luthier.tune.preference import PairObjective, Read, build_pair_examples, measure_rankings

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.packing.pack import Pack, TokenRow

TIE = "a tie: its {column} is 0"
_MARGIN = "margin"


class RewardObjective(PairObjective):
    """-log σ(r - s - m), with r and s the rewards of the preferred and of the other answer and m the margin between
    them, averaged over the pairs of a step (Bradley and Terry, 1952; margins: Touvron et al., 2023).

    The reward is read by a sequence head with one output, which begins at zero, after the last token of the
    conversation: transformers' `AutoModelForSequenceClassification`. Or it is the log-odds of the verdict that the
    model itself gives when it is asked by a rubric (a generative judge; Zhang et al., 2024).
    """

    kind: Literal["reward"] = "reward"

    head: Literal["sequence", "verdict"] = "sequence"
    """What gives the number. `sequence`: a new linear layer. `verdict`: log p(yes) - log p(no) of what the model, which
    stays a language model, would answer to `verdict.rubric`; it knows something of good answers before it has learnt
    anything, and costs a few more tokens to read."""
    verdict: YesNoJudgePrompt = YesNoJudgePrompt()
    """What the model is asked under `head: verdict`, and the words of its answer."""
    margin: str | None = None
    """A column that says by how much the preferred answer is better; the rewards must then differ by `scale` times as
    much. A margin of 0 is a tie. None: all pairs count alike."""
    scale: float = Field(default=1.0, gt=0)
    """Factor on the margins of the data."""
    ties: Literal["drop", "learn"] = "drop"
    """Whether pairs with a margin of 0 are left out, or taught to be equal: half the loss of either order."""
    center: float = Field(default=0.0, ge=0)
    """Weight of (r + s)², which keeps rewards around zero (Eisenstein et al., 2023); 0.01 is usual, 0: none."""

    @model_validator(mode="after")
    def _asked_only_by_a_verdict(self) -> Self:
        if self.head != "verdict" and self.verdict != YesNoJudgePrompt():
            raise ValueError("`verdict` changes nothing under a sequence head; set `head: verdict`, or leave it out")
        return self

    def outputs(self, about: ObjectiveContext) -> tuple[str, ...]:
        """Return one output, used as it is; empty where the model answers in words."""
        return (REWARD,) if self.head == "sequence" else ()

    def card(self, about: ObjectiveContext) -> dict[str, Any]:
        """Return the head's output, or the rubric that the model is asked by."""
        return super().card(about) | ({"verdict": self.verdict.model_dump()} if self.head == "verdict" else {})

    def build_training_examples(
        self, examples: Sequence[Example], text: ChatTokenizer, about: ObjectiveContext = NOTHING
    ) -> list[TrainingExample]:
        """Return for each example the conversations with its two answers, the preferred one first; or, for either
        answer, the rubric with yes and with no.
        """
        if self.head == "verdict":
            training_examples = build_pair_examples(examples, text, self.max_length, self._both_verdicts)
        else:
            training_examples = build_pair_examples(examples, text, self.max_length)
        pad = get_padding_id(text.tokenizer)
        return [self._add_margin(*example, pad) for example in zip(examples, training_examples, strict=True)]

    def _both_verdicts(self, example: Example, pair: PreferencePair) -> list[Read]:
        return [
            (turns, ())
            for answer in (pair.chosen, pair.rejected)
            for turns in self.verdict.given([*pair.prompt, answer])
        ]

    def _add_margin(self, example: Example, features: TrainingExample, pad: int | None) -> TrainingExample:
        if not features.rows:
            return features
        margin = self._margin(example)
        if margin == 0 and self.margin is not None and self.ties == "drop":
            return TrainingExample(id=example.id, nothing=TIE.format(column=self.margin))
        rows = features.rows if self.head == "verdict" else [_build_head_row(row, pad) for row in features.rows]
        scored_rows = [replace(row, token_values={_MARGIN: [margin] * len(row.targets)}) for row in rows]
        return replace(features, rows=tuple(scored_rows))

    def _margin(self, example: Example) -> float:
        if self.margin is None:
            return 0.0
        margin = column_number_of(example, self.margin)
        if margin is None or margin < 0:
            origin = example.origin
            where = SourceLocation(file=origin.file, line=origin.line, field=self.margin)
            came = example.meta.get(self.margin)
            raise DataError(f"expected a margin of 0 or more, got {came!r}", where=where, hint="swap the two answers")
        return self.scale * margin

    def loss(self, logp: Tensor, pack: Pack, reference: Tensor | None) -> Loss:
        """Return one term a pair, from (rows,) rewards or the log-probabilities of verdicts."""
        from torch.nn.functional import logsigmoid

        better, worse = self._rewards(logp, pack)
        margin = group_rows_by_example(get_row_values(_MARGIN, pack).to(logp), pack, missing=0.0)[:, 0]
        losses = -logsigmoid(better - worse - margin)
        if self.ties == "learn" and self.margin is not None:
            either = -(logsigmoid(better - worse) + logsigmoid(worse - better)) / 2
            losses = either.where(margin == 0, losses)
        parts = [LossTerms.of_examples(losses)]
        if self.center:
            parts.append(LossTerms.of_examples((better + worse) ** 2, self.center))
        return Loss(parts, measure_rankings(better, worse))

    def _rewards(self, logp: Tensor, pack: Pack) -> tuple[Tensor, Tensor]:
        """Return (pairs,) rewards of the preferred answers and (pairs,) of the rejected ones."""
        if self.head == "sequence":
            rewards = group_rows_by_example(logp, pack, missing=0.0)
        else:
            verdict_logps = group_rows_by_example(
                row_sums(logp, pack), pack, missing=0.0
            )  # (pairs, 4): yes, no, yes, no
            rewards = verdict_logps[:, ::2] - verdict_logps[:, 1::2]
        return rewards[:, 0], rewards[:, 1]

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The strength of the centering of rewards."""
        return {"center": ParamDistribution(values=(0.0, 0.001, 0.01, 0.1))}


def _build_head_row(row: TokenRow, pad: int | None) -> TokenRow:
    """Return a whole conversation, read at the position that transformers reads, with the index of the one output."""
    ids = strip_padding(row.ids, pad)
    return replace(row, ids=[*ids, 0], loss_weights=[0.0] * len(ids) + [1.0])
