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
    """What the assistant says for each class of the data, sorted by class; empty for data of texts."""
    seed: int = 0

    @classmethod
    def of(cls, examples: Sequence[Example], seed: int = 0) -> ObjectiveContext:
        """What the examples tell of the classes that they bear."""
        labels = {example.label for example in examples if example.label}
        return cls(classes=answer_text_by_label(labels, examples), seed=seed)


NOTHING = ObjectiveContext()
REFERENCE = "reference"
"""What a row's `token_values` calls the log-probabilities that the model, as it was, gives to its learnt tokens."""
NO_ROWS = "`without` leaves none of its rows"
"""Why there is nothing to learn at a step."""
FIRST = "first"
"""What a pack's `token_values` calls whether, of each learnt token, nothing was likelier to the model that learns."""


class Teacher(NamedTuple):
    """A frozen teacher model that gives its likeliest next tokens for distillation."""

    model: Any
    vocabulary: int
    """Ids below this mean the same to the teacher and to the model that learns."""


@dataclass(frozen=True, kw_only=True)
class TrainingExample:
    """The token rows that one example becomes, with counts of what was truncated."""

    id: str
    rows: tuple[TokenRow, ...] = ()
    """Empty when the example cannot be learnt from."""
    cut: int = 0
    """Tokens that were cut off to fit the limit."""
    nothing: str = ""
    """Why nothing can be learnt from it, when that is so."""

    @property
    def tokens(self) -> int:
        """Tokens of all its rows."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def trained_tokens(self) -> int:
        """Learnt tokens of all its rows."""
        return sum(len(row.targets) for row in self.rows)


class LossTerms(NamedTuple):
    """Terms of a loss over one pack, n in all: one for each example, or one for each learnt token."""

    values: Tensor
    """(n,) with their gradients."""
    weights: Tensor | float
    """(n,) or one for all: how much a term counts in the sum over an optimizer step."""
    examples: Tensor
    """(n,) int64: the number, within the pack, of the example that a term belongs to (`Pack.example_index`)."""

    @classmethod
    def of_tokens(cls, values: Tensor, weights: Tensor, pack: Pack) -> LossTerms:
        """Terms of the pack's learnt tokens, in their order."""
        return cls(values, weights, pack.example_index.to(values.device)[pack.path.to(values.device)])

    @classmethod
    def of_examples(cls, values: Tensor, weights: Tensor | float = 1.0) -> LossTerms:
        """Terms of the pack's examples, in their order."""
        import torch

        return cls(values, weights, torch.arange(len(values), device=values.device))


class Loss(NamedTuple):
    """The terms of a loss over one pack.

    The trainer sums them and divides by the denominator of the whole step, so that any split into packs gives the same
    gradient.
    """

    parts: Sequence[LossTerms]
    """Added up: one, or several that are averaged otherwise."""
    measures: Mapping[str, Tensor] = {}
    """Terms worth logging, without gradients: summed and divided like the loss."""

    @property
    def total(self) -> Tensor:
        """The weighted sum of all terms."""
        first, *others = ((part.values * part.weights).sum() for part in self.parts)
        return sum(others, first)

    def by_example(self, pack: Pack) -> Tensor:
        """(E,) what each of the pack's examples adds to the total, with its gradient."""
        sums = self.parts[0].values.new_zeros(len(pack.example_keys))
        for part in self.parts:
            sums = sums.index_add(0, part.examples, part.values * part.weights)
        return sums


class Objective(Component):
    """The base class of training objectives: how examples become token rows, and the loss over them."""

    role: ClassVar[str] = "objective"
    home: ClassVar[str] = "luthier.tune.objectives"
    needs_reference: ClassVar[bool] = False
    """Whether the loss also needs the log-probabilities of the model as it was: they are read once, before anything
    moves, and stand in the rows' `token_values` as `REFERENCE`."""

    measured: ClassVar[tuple[str, ...]] = ()
    """Which of the loss's measures may decide on held-out rows, more being better."""

    wants_first: ClassVar[bool] = False
    """Whether the loss also counts of which learnt tokens nothing was likelier: they stand in the pack's
    `token_values` as `FIRST`."""

    rate_share: ClassVar[float] = 1.0
    """What a learning rate that is found for supervised tuning is multiplied by."""

    needs_teacher: ClassVar[bool] = False
    """Whether another model says, at each learnt token, what it finds likely."""
    builtin_dropout: ClassVar[bool] = True
    """Whether dropout that is built into a model (GPT-2's 0.1) is on while it learns, as in a Hugging Face `Trainer`.
    Off for what people prefer, as in TRL: the model is then compared with itself as it was, or one answer with another,
    and dropout would tell apart what is the same."""
    mixes_rows: ClassVar[bool] = False
    """Whether the loss of one example depends on others."""
    draws: ClassVar[bool] = False
    """Whether what is learnt are answers that the model itself writes on the way (`luthier.tune.policy`)."""

    @abstractmethod
    def build_training_examples(
        self, examples: Sequence[Example], text: ChatTokenizer, about: ObjectiveContext = NOTHING
    ) -> list[TrainingExample]:
        """One training example for each example of the data, in order."""

    def outputs(self, about: ObjectiveContext) -> tuple[str, ...]:
        """Names of the outputs of the sequence head that the model needs; none when it keeps its language head.

        With a sequence head, the last id of a row is the number of an output. One output alone is read as it is (a
        reward); several as log-probabilities (classes).
        """
        return ()

    def wants_head(self) -> bool:
        """Whether the model gets a sequence head in place of its language head, whatever the classes."""
        return bool(self.outputs(ObjectiveContext(classes={"": ""})))

    def card(self, about: ObjectiveContext) -> dict[str, Any]:
        """What a saved model tells of how it is to be read; nothing where it is read like any language model."""
        return {"classes": outputs} if (outputs := self.outputs(about)) else {}

    def ready(self, pack: Pack, teacher: Teacher | None) -> Pack:
        """The pack with what the loss needs beside its rows."""
        return pack

    @property
    def stored(self) -> bool:
        """Whether what the teacher says is written into the examples once, instead of being asked at each step."""
        return False

    def prepare_rows(
        self, rows: Sequence[TokenRow], read: Callable[[Sequence[TokenRow]], Sequence[float]]
    ) -> list[TokenRow]:
        """The rows of one optimizer step as they are learnt, once what their losses must know of one another is known.

        `read` gives the weighted sum of the log-probabilities of each row's learnt tokens, without a gradient.
        """
        return list(rows)

    def hint(self, reasons: Collection[str]) -> str | None:
        """What to do when nothing can be learnt from any row, for these reasons."""
        return None

    @abstractmethod
    def denominator(self, rows: Sequence[TokenRow]) -> float:
        """What the sum over all packs of one optimizer step is divided by."""

    @abstractmethod
    def loss(self, logp: Tensor, pack: Pack, reference: Tensor | None) -> Loss:
        """The terms of one pack, from the log-probabilities of its learnt tokens; pure.

        `logp` is what `luthier.models.packing.logprobs` gives: (N,), or (N, 1 + K) for a pack with choices.
        `reference` (N,) is what the model gave before it moved; None where the objective needs none.
        """


def read_pack_logprobs(
    model: Any, objective: Objective, pack: Pack, read: Callable[..., Tensor]
) -> tuple[Tensor, Pack]:
    """What a model says of a pack when it is read by `luthier.models.packing.logprobs`; and the pack, where it says
    it, with what the loss needs to know of it."""
    import torch

    if not objective.wants_first:
        logp = read(model, pack)
        return logp, pack.on(logp.device)
    first = torch.zeros(pack.targets.shape[0], dtype=torch.bool, device=next(model.parameters()).device)
    logp = read(model, pack, first=first)
    here = pack.on(logp.device)
    return logp, replace(here, token_values={**here.token_values, FIRST: first})


def row_sums(logp: Tensor, pack: Pack) -> Tensor:
    """(R,) weighted sum of each row's log-probabilities (N,)."""
    weighed = logp * pack.weights.to(logp)
    return weighed.new_zeros(pack.rows).index_add(0, pack.path.to(logp.device), weighed)


def group_rows_by_example(values: Tensor, pack: Pack, missing: float) -> Tensor:
    """(examples, most rows of one): each example's row values (R,) side by side in order, then `missing`."""
    counts = pack.example_index.bincount()
    column = pack.example_index.new_ones(pack.rows).cumsum(0) - 1 - (counts.cumsum(0) - counts)[pack.example_index]
    table = values.new_full((len(counts), int(counts.max())), missing)
    return table.index_put((pack.example_index.to(values.device), column.to(values.device)), values)


def row_tokens(pack: Pack) -> Tensor:
    """(R,) how many tokens of each row are learnt."""
    return pack.path.bincount(minlength=pack.rows)


def get_row_values(name: str, pack: Pack) -> Tensor:
    """(R,) what a pack tells of each row: the same number at all of its learnt tokens."""
    values = pack.token_values[name]
    return values.new_zeros(pack.rows).index_copy(0, pack.path, values)


class TrainingBatch(NamedTuple):
    """What one optimizer step learns from."""

    rows: list[TokenRow]
    """What is read; rows that cannot move anything may be left out."""
    denominator: float
    """What the sum over all of the step's rows is divided by, those that are not read included."""
    measures: dict[str, float] = {}  # noqa: RUF012  # a NamedTuple's default is never changed
    """What is known of the step before it is learnt."""
    nothing: str = ""
    """Why there is nothing to learn; empty when there is something."""
    samples: tuple[dict[str, Any], ...] = ()
    """Answers worth showing, with their prompts."""
    instead: tuple[int, ...] = ()
    """Indices of the examples that are trained on in place of the sampler's; empty where they are the sampler's own."""


class BatchSource(ABC):
    """The interface that gives the trainer the rows of each step."""

    @abstractmethod
    def draw(self, step: int) -> TrainingBatch:
        """The rows of a step (from 0), under the weights as they are now."""

    @abstractmethod
    def largest(self, tokens: int, lanes: int = 1) -> ParallelPacks:
        """The largest packs that a step may read at once, of at most so many tokens together."""

    def can_resume_at(self, step: int) -> bool:
        """Whether a training can be taken up before this step: nothing that it learns was drawn earlier."""
        return True

    def record_step(self, record: Mapping[str, Any]) -> str:
        """Take note of a step that is done, by its line in the log (a resumed training tells all again).

        Returns why training is to stop after it; empty when it is not.
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
        """`read` gives, under the weights as they are, the weighted sum of each row's log-probabilities."""
        self._dataset, self._sampler, self._objective, self._read = dataset, sampler, objective, read

    def draw(self, step: int) -> TrainingBatch:
        """The token rows of the step's examples, as the sampler orders them."""
        from luthier.tune.training.memory import read_step_rows

        rows = self._objective.prepare_rows(read_step_rows(self._dataset, self._sampler, step), self._read)
        return TrainingBatch(rows, self._objective.denominator(rows), nothing="" if rows else NO_ROWS)

    def largest(self, tokens: int, lanes: int = 1) -> ParallelPacks:
        """The packs of the steps with the most tokens, rows that weigh nothing included."""
        from luthier.tune.training.memory import find_largest_packs

        def prepared(rows: Sequence[TokenRow]) -> list[TokenRow]:
            return self._objective.prepare_rows(rows, lambda some: [0.0] * len(some))

        whole = replace(self._sampler, without=frozenset())
        return find_largest_packs(self._dataset, whole, tokens, lanes, prepared)
