"""KTO: learn from single answers that people found good or bad, without pairs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.chat.messages import Example, prompt_of
from luthier.chat.preference import WANTED, desirable_label_of, is_pair
from luthier.core.param_space import ParamDistribution
from luthier.tune.objective import (
    NOTHING,
    REFERENCE,
    Loss,
    LossTerms,
    Objective,
    ObjectiveContext,
    TrainingExample,
    get_row_values,
    row_sums,
)
from luthier.tune.preference import RATE_SHARE, build_answer_example

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.chat.tokenizer import ChatTokenizer, EncodedChat
    from luthier.models.packing.pack import Pack, TokenRow

PAIRED = "it is a pair of answers"
UNSAID = "it has no yes or no"
EMPTY = "its answer is empty"
ALONE = "no other answer stands beside it"
_GOOD, _DRIFT = "wanted", "drift"
"""Keys in `token_values`: whether an answer was rated good, and the drift of the whole step."""


class Kto(Objective):
    """One minus a value that saturates, of each answer's log-ratio with the model as it was, averaged over the answers
    of a step (Ethayarajh et al., 2024).

    With r the log-ratio and z the model's drift: λ_D (1 - σ(β (r - z))) of a good answer and λ_U (1 - σ(β (z - r))) of
    a bad one. The drift is the mean log-ratio of answers to other prompts, never below 0 and without a gradient; it is
    one number for the whole step, however that is split.
    """

    kind: Literal["kto"] = "kto"
    needs_reference: ClassVar[bool] = True
    rate_share: ClassVar[float] = RATE_SHARE
    measured: ClassVar[tuple[str, ...]] = ("margin",)
    builtin_dropout: ClassVar[bool] = False
    mixes_rows: ClassVar[bool] = True
    loss_type: Literal["kto", "apo_zero"] = "kto"
    """`apo_zero` leaves the drift out: 1 - σ(β r) of a good answer and σ(β r) of a bad one (D'Oosterlinck et al.,
    2024), and needs no reading of answers to other prompts."""
    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull to the reference model."""
    desirable_weight: float = Field(default=1.0, gt=0)
    """λ_D, the weight of good answers. Where they are fewer, weigh them so that `desirable_weight` times their number
    is 1 to 4/3 of `undesirable_weight` times the number of the others."""
    undesirable_weight: float = Field(default=1.0, gt=0)
    """λ_U, the weight of bad answers."""
    label: str = WANTED
    """The column that says whether an answer was found good: true, false, 1, 0, yes, no, up or down."""
    max_length: int = Field(default=2048, ge=2)
    """Rows with more tokens than this are left out, counted, listed in `training_examples.parquet` and warned of."""

    def build_training_examples(
        self, examples: Sequence[Example], text: ChatTokenizer, about: ObjectiveContext = NOTHING
    ) -> list[TrainingExample]:
        """Return for each example the row of its answer and, to measure the drift, its prompt with the previous
        example's answer.
        """
        fit = [example for example in examples if not self._explain_exclusion(example)]
        turns = [[*prompt_of(entry), entry.messages[-1]] for entry in fit]
        if self.loss_type == "kto":
            turns += [
                [*prompt_of(entry), other.messages[-1]] for entry, other in zip(fit, [*fit[-1:], *fit], strict=False)
            ]
        rows = text.encode_many(turns, [entry.tools for entry in fit] * (1 + (self.loss_type == "kto")))
        rows_by_id = {entry.id: rows[at :: len(fit)] for at, entry in enumerate(fit)}
        return [self._build_example(example, rows_by_id, len(fit)) for example in examples]

    def _build_example(self, example: Example, rows_by_id: dict[str, list[EncodedChat]], count: int) -> TrainingExample:
        if why := self._explain_exclusion(example):
            return TrainingExample(id=example.id, nothing=why)
        if self.loss_type == "kto" and count < 2:
            return TrainingExample(id=example.id, nothing=ALONE)
        own, *other = rows_by_id[example.id]
        features = build_answer_example(
            example.id,
            [own, *(_truncate_row(encoded_chat, self.max_length) for encoded_chat in other)],
            self.max_length,
        )
        good = float(desirable_label_of(example, self.label) or False)
        rows = [replace(row, token_values={_GOOD: [good] * len(row.targets)}) for row in features.rows]
        return replace(features, rows=tuple(rows))

    def _explain_exclusion(self, example: Example) -> str:
        if desirable_label_of(example, self.label) is None:
            return PAIRED if is_pair(example) else UNSAID
        if example.messages[-1].role != "assistant":
            return "it has no answer"
        last = example.messages[-1]
        return "" if last.content.strip() or last.tool_calls else EMPTY

    def hint(self, reasons: Collection[str]) -> str | None:
        """Suggest the objective that fits other data."""
        if PAIRED in reasons:
            return "learn pairs by `objective: dpo`"
        if UNSAID in reasons:
            return f"name the column that says whether an answer was good (`label: …`; now {self.label!r}), or use sft"
        return None

    def prepare_rows(
        self, rows: Sequence[TokenRow], read: Callable[[Sequence[TokenRow]], Sequence[float]]
    ) -> list[TokenRow]:
        """Return the answers of the step, each with the drift."""
        if self.loss_type != "kto":
            return list(rows)
        token_rows = rows[1::2]
        before = [sum(row.token_values[REFERENCE]) for row in token_rows]
        apart = [now - then for now, then in zip(read(token_rows), before, strict=True)]
        drift = max(0.0, sum(apart) / len(apart))
        return [
            replace(row, group_size=1, token_values={**row.token_values, _DRIFT: [drift] * len(row.targets)})
            for row in rows[::2]
        ]

    def denominator(self, rows: Sequence[TokenRow]) -> float:
        """Return the number of answers."""
        return float(len(rows))

    def loss(self, logp: Tensor, pack: Pack, reference: Tensor | None) -> Loss:
        """Return one term an answer; as measures the drift, and the margin between the rewards of good and of bad
        answers.
        """
        assert reference is not None, "the rows bear what the model was"
        rewards = self.beta * row_sums(logp - reference.to(logp), pack)
        sign = 2 * get_row_values(_GOOD, pack).to(logp) - 1
        drift = self.beta * get_row_values(_DRIFT, pack).to(logp) if self.loss_type == "kto" else rewards.new_zeros(())
        losses = 1 - (sign * (rewards - drift)).sigmoid()
        weights = losses.new_tensor(self.desirable_weight).where(sign > 0, losses.new_tensor(self.undesirable_weight))
        measures = {"margin": sign * rewards.detach()}
        if self.loss_type == "kto":
            measures["drift"] = get_row_values(_DRIFT, pack)
        return Loss([LossTerms.of_examples(losses, weights)], measures)

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The strength of the pull to the reference."""
        return {"beta": ParamDistribution(0.01, 0.5, log=True)}


def _truncate_row(row: EncodedChat, limit: int) -> EncodedChat:
    """Return the beginning of a row: a long mismatched answer measures the drift as well when it is cut, and no row is
    left out (as in TRL).
    """
    return replace(row, ids=row.ids[:limit], loss_mask=row.loss_mask[:limit])
