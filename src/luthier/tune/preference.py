"""Pairs of answers as training examples: the preferred one first, both after one prompt, which a pack reads once."""

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
"""Preferences want small steps: TRL's default rates are 2e-5 for supervised tuning and 1e-6 for pairs."""
SHARE = "share"
"""What `token_values` calls the factor of a preferred answer's plain loss (see `add_sft_weights`)."""


class PairObjective(Objective):
    """The base of objectives that learn from preference pairs."""

    measured: ClassVar[tuple[str, ...]] = ("accuracy", "margin")
    builtin_dropout: ClassVar[bool] = False

    max_length: int = Field(default=2048, ge=2)
    """Pairs with a longer row are left out, counted, listed in `loss_mask.parquet` and warned of."""

    def build_training_examples(
        self, examples: Sequence[Example], text: ChatTokenizer, about: ObjectiveContext = NOTHING
    ) -> list[TrainingExample]:
        """For each example the rows of its two answers, the preferred one first."""
        return build_pair_examples(examples, text, self.max_length)

    def hint(self, reasons: Collection[str]) -> str | None:
        """The objective that fits other data."""
        return suggest_pair_fix(reasons)

    @property
    def sft_weight(self) -> float:
        """Weight of the plain loss of the preferred answers (mean over their tokens)."""
        return 0.0

    def prepare_rows(
        self, rows: Sequence[TokenRow], read: Callable[[Sequence[TokenRow]], Sequence[float]]
    ) -> list[TokenRow]:
        """The rows with the factors of the plain loss, where it has a weight."""
        return add_sft_weights(rows, self.sft_weight) if self.sft_weight else list(rows)

    def pair_terms(self, values: Tensor, logp: Tensor, pack: Pack, weight: float = 1.0) -> list[LossTerms]:
        """(pairs,) values as terms, and the plain loss of the preferred answers by token."""
        plain = [LossTerms.of_tokens(-logp, pack.token_values[SHARE].to(logp), pack)] if self.sft_weight else []
        return [LossTerms.of_examples(values, weight), *plain]

    def denominator(self, rows: Sequence[TokenRow]) -> float:
        """How many pairs there are."""
        return sum(1.0 / row.group_size for row in rows)


Read = tuple[Sequence[Message], tuple[dict[str, Any], ...]]
"""A conversation and the tools that are offered in it."""


def build_both_conversations(example: Example, pair: PreferencePair) -> list[Read]:
    """The preferred answer after the prompt, and the other one."""
    return [([*pair.prompt, answer], example.tools) for answer in (pair.chosen, pair.rejected)]


def build_pair_examples(
    examples: Sequence[Example],
    text: ChatTokenizer,
    max_tokens: int,
    read: Callable[[Example, PreferencePair], list[Read]] = build_both_conversations,
) -> list[TrainingExample]:
    """For each example the rows of what is read of its pair, every token of their last turns learnt."""
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
    """The rows of some answers to one prompt, or why nothing can be learnt from them."""
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
    """What to do with data of which no row is a pair."""
    if SINGLE in reasons:
        return "learn such rows by `objective: kto`, or make pairs of them with the step `preferences`"
    if NO_PAIR in reasons:
        return "pairs need a column `rejected` beside the preferred answer; learn single answers by `objective: sft`"
    return None


def add_sft_weights(rows: Sequence[TokenRow], weight: float) -> list[TokenRow]:
    """The rows of one step with the factor of each preferred answer's tokens in a plain loss of its own.

    That loss is the mean over all preferred tokens of the step, as TRL takes it, though the step is divided by its
    pairs.
    """
    chosen = [row for number, row in enumerate(rows) if number % 2 == 0]
    factor = weight * len(chosen) / sum(len(row.targets) for row in chosen) if weight and chosen else 0.0
    return [
        replace(row, token_values={**row.token_values, SHARE: [0.0 if number % 2 else factor] * len(row.targets)})
        for number, row in enumerate(rows)
    ]


def split_chosen_rejected(values: Tensor, pack: Pack) -> tuple[Tensor, Tensor]:
    """(R,) values of rows as (pairs,) of the preferred answers and (pairs,) of the others."""
    table = group_rows_by_example(values, pack, missing=0.0)
    return table[:, 0], table[:, 1]


def measure_rankings(better: Tensor, worse: Tensor) -> dict[str, Tensor]:
    """(pairs,) whether each pair is ranked as people did, and by how much."""
    apart = (better - worse).detach()
    return {"accuracy": apart > 0, "margin": apart}
