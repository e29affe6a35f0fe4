"""Preference pairs as training examples: two rows after one prompt, the preferred answer first; a pack stores the
prompt once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from luthier.chat.messages import Example, Message
from luthier.chat.preference import PreferencePair, desirable_label_of, pair_of
from luthier.tune.objective import (
    NOTHING,
    LossTerms,
    Objective,
    ObjectiveContext,
    TrainingExample,
    group_rows_by_example,
)
from luthier.tune.objectives.sft import TOO_LONG

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.chat.tokenizer import ChatTokenizer, EncodedChat
    from luthier.models.packing.pack import Pack, TokenRow

SINGLE = "it has one answer with a yes or no"
NO_PAIR = "it has one answer, and none that was not preferred"
RATE_SHARE = 0.05
"""Learning rate of preference objectives over that of supervised fine-tuning: TRL's defaults are 1e-6 and 2e-5."""
SHARE = "share"
"""Key in `token_values` of the factor on a preferred answer's negative log-likelihood (see `add_sft_weights`)."""


class PairObjective(Objective):
    """The base of objectives that learn from preference pairs."""

    measured: ClassVar[tuple[str, ...]] = ("accuracy", "margin")
    builtin_dropout: ClassVar[bool] = False

    max_length: int = Field(default=2048, ge=2)
    """Pairs with a longer row are left out, counted, listed in `training_examples.parquet` and warned of."""

    def build_training_examples(
        self, examples: Sequence[Example], text: ChatTokenizer, about: ObjectiveContext = NOTHING
    ) -> list[TrainingExample]:
        """Return for each example the rows of its two answers, the preferred one first."""
        return build_pair_examples(examples, text, self.max_length)

    def hint(self, reasons: Collection[str]) -> str | None:
        """Suggest the objective that fits other data."""
        return suggest_pair_fix(reasons)

    @property
    def sft_weight(self) -> float:
        """Weight of the negative log-likelihood of the preferred answers (mean over their tokens)."""
        return 0.0

    def prepare_rows(
        self, rows: Sequence[TokenRow], read: Callable[[Sequence[TokenRow]], Sequence[float]]
    ) -> list[TokenRow]:
        """Return the rows with the factors of the negative log-likelihood, where it has a weight."""
        return add_sft_weights(rows, self.sft_weight) if self.sft_weight else list(rows)

    def pair_terms(self, values: Tensor, logp: Tensor, pack: Pack, weight: float = 1.0) -> list[LossTerms]:
        """Return (pairs,) values as terms, and the negative log-likelihood of the preferred answers by token."""
        plain = [LossTerms.of_tokens(-logp, pack.token_values[SHARE].to(logp), pack)] if self.sft_weight else []
        return [LossTerms.of_examples(values, weight), *plain]

    def denominator(self, rows: Sequence[TokenRow]) -> float:
        """Return the number of pairs."""
        return sum(1.0 / row.group_size for row in rows)


Read = tuple[Sequence[Message], tuple[dict[str, Any], ...]]
"""A conversation with its tools."""


def build_both_conversations(example: Example, pair: PreferencePair) -> list[Read]:
    """Return the conversation with the preferred answer, and that with the rejected one."""
    return [([*pair.prompt, answer], example.tools) for answer in (pair.chosen, pair.rejected)]


def build_pair_examples(
    examples: Sequence[Example],
    text: ChatTokenizer,
    max_tokens: int,
    read: Callable[[Example, PreferencePair], list[Read]] = build_both_conversations,
) -> list[TrainingExample]:
    """Return for each example the rows of its pair, with all tokens of their last turns trained on."""
    pairs = [_pair(example) for example in examples]
    conversations = [
        [] if isinstance(pair, str) else read(example, pair) for example, pair in zip(examples, pairs, strict=True)
    ]
    flat = [entry for pair_rows in conversations for entry in pair_rows]
    rows = iter(text.encode_many([messages for messages, _ in flat], [tools for _, tools in flat]))
    return [
        TrainingExample(id=example.id, nothing=pair)
        if isinstance(pair, str)
        else build_answer_example(example.id, [next(rows) for _ in pair_rows], max_tokens)
        for example, pair, pair_rows in zip(examples, pairs, conversations, strict=True)
    ]


def _pair(example: Example) -> PreferencePair | str:
    pair = pair_of(example)
    return SINGLE if pair == NO_PAIR and desirable_label_of(example) is not None else pair


def build_answer_example(key: str, answers: Sequence[EncodedChat], max_tokens: int) -> TrainingExample:
    """Return the rows of some answers to one prompt, or why they cannot be trained on."""
    from luthier.models.packing.pack import TokenRow

    longest = max(len(answer.ids) for answer in answers)
    if longest > max_tokens:
        return TrainingExample(id=key, cut=longest, nothing=TOO_LONG.format(limit=max_tokens))
    if why := next((answer.nothing for answer in answers if answer.nothing), ""):
        return TrainingExample(id=key, nothing=why)
    rows = [
        TokenRow(answer.ids, [float(trained) for trained in answer.loss_mask], key, len(answers)) for answer in answers
    ]
    return TrainingExample(id=key, rows=tuple(rows))


def suggest_pair_fix(reasons: Collection[str]) -> str | None:
    """Suggest what to do with data in which no row is a pair."""
    if SINGLE in reasons:
        return "learn such rows by `objective: kto`, or make pairs of them with the step `preferences`"
    if NO_PAIR in reasons:
        return "pairs need a column `rejected` beside the preferred answer; learn single answers by `objective: sft`"
    return None


def add_sft_weights(rows: Sequence[TokenRow], weight: float) -> list[TokenRow]:
    """Return the rows of one step with the factor of each preferred token in the negative log-likelihood.

    That loss is the mean over all preferred tokens of the step, as in TRL, although the step is divided by its pairs.
    """
    chosen = [row for number, row in enumerate(rows) if number % 2 == 0]
    factor = weight * len(chosen) / sum(len(row.targets) for row in chosen) if weight and chosen else 0.0
    return [
        replace(row, token_values={**row.token_values, SHARE: [0.0 if number % 2 else factor] * len(row.targets)})
        for number, row in enumerate(rows)
    ]


def split_chosen_rejected(values: Tensor, pack: Pack) -> tuple[Tensor, Tensor]:
    """Return (R,) row values as (pairs,) of the preferred answers and (pairs,) of the rejected ones."""
    table = group_rows_by_example(values, pack, missing=0.0)
    return table[:, 0], table[:, 1]


def measure_rankings(better: Tensor, worse: Tensor) -> dict[str, Tensor]:
    """Return (pairs,) whether each pair is ranked as people did, and the margin."""
    apart = (better - worse).detach()
    return {"accuracy": apart > 0, "margin": apart}
