"""Objectives: the role `objective`, and the batches of an optimizer step.

An objective says which rows are read and which tokens are trained, and has a pure loss. A batch holds stored examples
or completions that the model samples at that step. It depends only on recipe, seed, step and the weights before the
step, so it is not saved.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from luthier.chat.messages import Example, answer_text_by_label
from luthier.core.component import Component

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.packing.pack import Pack, TokenRow
    from luthier.tune.dataset.tokenized import TokenizedDataset
    from luthier.tune.training.memory import ParallelPacks
    from luthier.tune.training.schedule import BatchSampler


@dataclass(frozen=True, kw_only=True)
class ObjectiveContext:
    """Information about the data that an objective may use: the classes and the seed."""

    classes: Mapping[str, str] = field(default_factory=dict)
    """The assistant's text for each class of the data, sorted by class; empty for data without classes."""
    seed: int = 0

    @classmethod
    def of(cls, examples: Sequence[Example], seed: int = 0) -> ObjectiveContext:
        """Build the context from the labels of the examples."""
        labels = {example.label for example in examples if example.label}
        return cls(classes=answer_text_by_label(labels, examples), seed=seed)


NOTHING = ObjectiveContext()
REFERENCE = "reference"
"""Key in a row's `token_values` of the log-probabilities that the model before training gives its trained tokens."""
NO_ROWS = "`without` leaves none of its rows"
"""Why a step has nothing to train on."""
FIRST = "first"
"""Key in a pack's `token_values` that says for each trained token whether it was the model's top prediction."""


class Teacher(NamedTuple):
    """A frozen teacher model that gives its likeliest next tokens for distillation."""

    model: Any
    vocabulary: int
    """Ids below this are the same tokens for the teacher and for the student."""


@dataclass(frozen=True, kw_only=True)
class TrainingExample:
    """The token rows that one example becomes, with counts of what was truncated."""

    id: str
    rows: tuple[TokenRow, ...] = ()
    """Empty when the example cannot be trained on."""
    cut: int = 0
    """Tokens that were cut off to fit the limit."""
    nothing: str = ""
    """Why the example cannot be trained on; empty otherwise."""

    @property
    def tokens(self) -> int:
        """Number of tokens of all its rows."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def trained_tokens(self) -> int:
        """Number of trained tokens of all its rows."""
        return sum(len(row.targets) for row in self.rows)


class LossTerms(NamedTuple):
    """Terms of a loss over one pack, n in all: one for each example, or one for each trained token."""

    values: Tensor
    """(n,) with their gradients."""
    weights: Tensor | float
    """(n,) or one for all: how much a term counts in the sum over an optimizer step."""
    examples: Tensor
    """(n,) int64: the number, within the pack, of the example that a term belongs to (`Pack.example_index`)."""

    @classmethod
    def of_tokens(cls, values: Tensor, weights: Tensor, pack: Pack) -> LossTerms:
        """Build terms of the pack's trained tokens, in their order."""
        return cls(values, weights, pack.example_index.to(values.device)[pack.path.to(values.device)])

    @classmethod
    def of_examples(cls, values: Tensor, weights: Tensor | float = 1.0) -> LossTerms:
        """Build terms of the pack's examples, in their order."""
        import torch

        return cls(values, weights, torch.arange(len(values), device=values.device))


class Loss(NamedTuple):
    """The terms of a loss over one pack.

    The trainer sums them and divides by the denominator of the whole step, so that any split into packs gives the same
    gradient.
    """

    parts: Sequence[LossTerms]
    """Groups of terms that are added up; several where they are averaged differently."""
    measures: Mapping[str, Tensor] = {}
    """Terms to log, without gradients: summed and divided like the loss."""

    @property
    def total(self) -> Tensor:
        """Return the weighted sum of all terms."""
        first, *others = ((part.values * part.weights).sum() for part in self.parts)
        return sum(others, first)

    def by_example(self, pack: Pack) -> Tensor:
        """Return what each of the pack's examples adds to the total (E,), with its gradient."""
        sums = self.parts[0].values.new_zeros(len(pack.example_keys))
        for part in self.parts:
            sums = sums.index_add(0, part.examples, part.values * part.weights)
        return sums


class Objective(Component):
    """The base class of training objectives: how examples become token rows, and the loss over them."""

    role: ClassVar[str] = "objective"
    home: ClassVar[str] = "luthier.tune.objectives"
    needs_reference: ClassVar[bool] = False
    """Whether the loss also needs the log-probabilities of the model before training: they are computed once, before
    the first step, and are in the rows' `token_values` as `REFERENCE`."""

    measured: ClassVar[tuple[str, ...]] = ()
    """Measures of the loss that may decide on held-out rows; higher is better."""

    wants_first: ClassVar[bool] = False
    """Whether the loss also needs to know which trained tokens were the model's top prediction: they are in the pack's
    `token_values` as `FIRST`."""

    rate_share: ClassVar[float] = 1.0
    """Factor on a learning rate that was found for supervised fine-tuning."""

    needs_teacher: ClassVar[bool] = False
    """Whether a teacher model gives its predictions at each trained token."""
    builtin_dropout: ClassVar[bool] = True
    """Whether dropout that is built into a model (GPT-2's 0.1) is active during training, as in a Hugging Face
    `Trainer`. Off for preference objectives, as in TRL: these compare the model with itself before training, or one
    answer with another, and dropout would make equal inputs differ."""
    mixes_rows: ClassVar[bool] = False
    """Whether the loss of one example depends on others."""
    draws: ClassVar[bool] = False
    """Whether it trains on completions that the model itself samples during training (`luthier.tune.policy`)."""

    @abstractmethod
    def build_training_examples(
        self, examples: Sequence[Example], text: ChatTokenizer, about: ObjectiveContext = NOTHING
    ) -> list[TrainingExample]:
        """Return one training example for each example of the data, in order."""

    def outputs(self, about: ObjectiveContext) -> tuple[str, ...]:
        """Return the names of the outputs of the sequence head that the model needs; empty when it keeps its language
        head.

        With a sequence head, the last id of a row is the index of an output. A single output is used as it is (a
        reward); several as log-probabilities (classes).
        """
        return ()

    def wants_head(self) -> bool:
        """Return whether the model gets a sequence head in place of its language head, whatever the classes."""
        return bool(self.outputs(ObjectiveContext(classes={"": ""})))

    def card(self, about: ObjectiveContext) -> dict[str, Any]:
        """Return what a saved model records about how to read it; empty for a plain language model."""
        return {"classes": outputs} if (outputs := self.outputs(about)) else {}

    def ready(self, pack: Pack, teacher: Teacher | None) -> Pack:
        """Return the pack with what the loss needs besides its rows."""
        return pack

    @property
    def stored(self) -> bool:
        """Return whether the teacher's predictions are stored with the examples once, rather than computed at each
        step.
        """
        return False

    def prepare_rows(
        self, rows: Sequence[TokenRow], read: Callable[[Sequence[TokenRow]], Sequence[float]]
    ) -> list[TokenRow]:
        """Return the rows of one optimizer step, with what their losses need to know of one another.

        `read` returns the weighted sum of the log-probabilities of each row's trained tokens, without a gradient.
        """
        return list(rows)

    def hint(self, reasons: Collection[str]) -> str | None:
        """Return what to do when no row can be trained on, for these reasons."""
        return None

    @abstractmethod
    def denominator(self, rows: Sequence[TokenRow]) -> float:
        """Return the denominator of the sum over all packs of one optimizer step."""

    @abstractmethod
    def loss(self, logp: Tensor, pack: Pack, reference: Tensor | None) -> Loss:
        """Return the loss terms of one pack, from the log-probabilities of its trained tokens; a pure function.

        `logp` is what `luthier.models.packing.logprobs` returns: (N,), or (N, 1 + K) for a pack with choices.
        `reference` (N,) is from the model before training; None where the objective needs none.
        """


def read_pack_logprobs(
    model: Any, objective: Objective, pack: Pack, read: Callable[..., Tensor]
) -> tuple[Tensor, Pack]:
    """Return a model's log-probabilities of a pack, by `luthier.models.packing.logprobs`, and the pack with what the
    loss needs to know of the model's predictions.
    """
    import torch

    if not objective.wants_first:
        logp = read(model, pack)
        return logp, pack.on(logp.device)
    first = torch.zeros(pack.targets.shape[0], dtype=torch.bool, device=next(model.parameters()).device)
    logp = read(model, pack, first=first)
    here = pack.on(logp.device)
    return logp, replace(here, token_values={**here.token_values, FIRST: first})


def row_sums(logp: Tensor, pack: Pack) -> Tensor:
    """Return the weighted sum (R,) of each row's log-probabilities (N,)."""
    weighed = logp * pack.weights.to(logp)
    return weighed.new_zeros(pack.rows).index_add(0, pack.path.to(logp.device), weighed)


def group_rows_by_example(values: Tensor, pack: Pack, missing: float) -> Tensor:
    """Return (examples, most rows of an example): each example's row values (R,) in order, padded with `missing`."""
    counts = pack.example_index.bincount()
    column = pack.example_index.new_ones(pack.rows).cumsum(0) - 1 - (counts.cumsum(0) - counts)[pack.example_index]
    table = values.new_full((len(counts), int(counts.max())), missing)
    return table.index_put((pack.example_index.to(values.device), column.to(values.device)), values)


def row_tokens(pack: Pack) -> Tensor:
    """Return the number of trained tokens of each row (R,)."""
    return pack.path.bincount(minlength=pack.rows)


def get_row_values(name: str, pack: Pack) -> Tensor:
    """Return a value of each row (R,), which is the same at all of its trained tokens."""
    values = pack.token_values[name]
    return values.new_zeros(pack.rows).index_copy(0, pack.path, values)


class TrainingBatch(NamedTuple):
    """The rows of one optimizer step."""

    rows: list[TokenRow]
    """The rows to read; rows without a gradient may be left out."""
    denominator: float
    """The denominator of the sum over all of the step's rows, including those that are not read."""
    measures: dict[str, float] = {}  # noqa: RUF012  # a NamedTuple's default is never changed
    """Measures of the step that are known before the update."""
    nothing: str = ""
    """Why there is nothing to train on; empty when there is."""
    samples: tuple[dict[str, Any], ...] = ()
    """Completions to show, with their prompts."""
    instead: tuple[int, ...] = ()
    """Indices of the examples that are trained on in place of the sampler's; empty where they are the sampler's own."""


class BatchSource(ABC):
    """The interface that gives the trainer the rows of each step."""

    @abstractmethod
    def draw(self, step: int) -> TrainingBatch:
        """Return the rows of a step (from 0), under the current weights."""

    @abstractmethod
    def largest(self, tokens: int, lanes: int = 1) -> ParallelPacks:
        """Return the largest packs that a step may read in parallel, of at most `tokens` tokens together."""

    def can_resume_at(self, step: int) -> bool:
        """Return whether a training can resume before this step: none of its rows was sampled earlier."""
        return True

    def record_step(self, record: Mapping[str, Any]) -> str:
        """Take note of a finished step by its line in the log (a resumed training repeats all lines).

        Returns why training stops after it; empty when it does not.
        """
        return ""


class PreparedBatchSource(BatchSource):
    """A batch source over a data set that was tokenized before training began."""

    def __init__(
        self,
        dataset: TokenizedDataset,
        sampler: BatchSampler,
        objective: Objective,
        read: Callable[[Sequence[TokenRow]], Sequence[float]],
    ) -> None:
        """Build the source; `read` returns the weighted sum of each row's log-probabilities under the
        current weights.
        """
        self._dataset, self._sampler, self._objective, self._read = dataset, sampler, objective, read

    def draw(self, step: int) -> TrainingBatch:
        """Return the token rows of the step's examples, in the sampler's order."""
        from luthier.tune.training.memory import read_step_rows

        rows = self._objective.prepare_rows(read_step_rows(self._dataset, self._sampler, step), self._read)
        return TrainingBatch(rows, self._objective.denominator(rows), nothing="" if rows else NO_ROWS)

    def largest(self, tokens: int, lanes: int = 1) -> ParallelPacks:
        """Return the packs of the steps with the most tokens, including rows without weight."""
        from luthier.tune.training.memory import find_largest_packs

        def prepared(rows: Sequence[TokenRow]) -> list[TokenRow]:
            return self._objective.prepare_rows(rows, lambda some: [0.0] * len(some))

        whole = replace(self._sampler, without=frozenset())
        return find_largest_packs(self._dataset, whole, tokens, lanes, prepared)
