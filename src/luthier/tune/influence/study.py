"""One training as influence methods see it: its rows, its kept states, its model, and the queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from luthier.artifacts.training import TrainingRecord
from luthier.chat.prompt import PromptPrefix
from luthier.core.errors import DataError, ModelError, SourceLocation
from luthier.core.events import take_evenly_spaced
from luthier.core.hashing import digest_of
from luthier.tune.influence.weights import LossReader
from luthier.tune.training.kept_states import KeptState, KeptStates

if TYPE_CHECKING:
    from luthier.chat.messages import Example
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.core.artifact import Artifact
    from luthier.core.step import StepContext
    from luthier.models.packing.pack import Pack, TokenRow
    from luthier.tune.dataset.tokenized import TokenizedDataset
    from luthier.tune.dataset.training_data import TrainingData
    from luthier.tune.objective import Objective
    from luthier.tune.run import TrainingRun
    from luthier.tune.steps.tune import Tune


class QueryRows(NamedTuple):
    """One query: rows whose mean loss is attributed to training rows."""

    name: str
    rows: Sequence[TokenRow]


class RowSeen(NamedTuple):
    """A row that a step trained on."""

    row: int
    """Its index among the training rows."""
    share: float
    """The step's learning rate times the clipping factor, over the step's denominator."""


class InfluenceStudy:
    """The rows, states and model of one training, and the queries about it."""

    def __init__(
        self, step: Tune, model: Artifact, work: StepContext, examples: Sequence[Example], *, each: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        """Prepare a study.

        `work` has the inputs `data` and `model` of the training, its seed, and a scratch folder. `examples` are the
        queried rows: together one query, or with `each` one query a row. `ModelError` when the training kept no states.
        """
        self.step, self.tuned, self.work, self.dtype = step, model, work, dtype
        self.states = KeptStates(model)
        self._examples, self._each = examples, each

    @property
    def objective(self) -> Objective:
        """The training objective."""
        return self.step.objective

    @cached_property
    def run(self) -> TrainingRun:
        """The training run, to open or repeat."""
        from luthier.tune.run import TrainingRun
        from luthier.tune.technique import Technique

        assert isinstance(self.step.technique, Technique), "a plan refuses techniques that train no network"
        return TrainingRun(self.step, self.step.technique, self.work)

    @cached_property
    def text(self) -> ChatTokenizer:
        """The tokenizer and chat template of the training."""
        from luthier.chat.tokenizer import ChatTokenizer
        from luthier.models.load import find_base_folder

        base = self.work.inputs["model"]
        return ChatTokenizer.load(find_base_folder(base), before=PromptPrefix.of(base))

    @cached_property
    def material(self) -> TrainingData:
        """The training data."""
        from luthier.tune.dataset.training_data import TrainingData

        return TrainingData(self.step, self.work, self.text)

    @property
    def dataset(self) -> TokenizedDataset:
        """The tokenized training examples."""
        return self.material.dataset

    @property
    def keys(self) -> list[str]:
        """The ids of the training rows, in order."""
        return self.dataset.keys

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The index of each row by its id."""
        return {key: number for number, key in enumerate(self.keys)}

    @cached_property
    def reader(self) -> LossReader:
        """Computes losses with the model, which has the initial weights until a state is opened."""
        model = self.run.open_before_training(self.material, self.dtype)
        if self.dtype == torch.float64:
            model = model.double()
        return LossReader(model, self.objective, self.run.count_pack_tokens(self.material))

    def prepare(self, rows: Sequence[TokenRow]) -> list[TokenRow]:
        """Return rows as the loss reads them."""
        return self.objective.prepare_rows(rows, lambda some: [0.0] * len(some))

    def rows_of(self, numbers: Sequence[int]) -> list[TokenRow]:
        """Return the token rows of some training rows."""
        return self.prepare([row for number in numbers for row in self.dataset.rows(number)])

    @cached_property
    def packs(self) -> list[Pack]:
        """All training rows, shared prefixes stored once."""
        return self.reader.build_packs(self.rows_of(range(len(self.keys))))

    @cached_property
    def queries(self) -> list[QueryRows]:
        """The queries; `DataError` when a query has no trained tokens."""
        if self._each:
            return [QueryRows(key, own) for key, own in zip(self._query_dataset.keys, self.question_rows, strict=True)]
        return [QueryRows("", [row for own in self.question_rows for row in own])]

    def pick_rows(self, query: QueryRows, most: int) -> list[TokenRow]:
        """Return the token rows of at most `most` examples of a query, evenly spaced."""
        if self._each:
            return list(query.rows)
        return [row for own in take_evenly_spaced(self.question_rows, most) for row in own]

    @cached_property
    def question_rows(self) -> list[list[TokenRow]]:
        """The token rows of each queried example."""
        return [self.prepare(self._query_dataset.rows(number)) for number in range(len(self._query_dataset))]

    @cached_property
    def _query_dataset(self) -> TokenizedDataset:
        from luthier.tune.dataset.tokenized import TokenizedDataset

        folder = self.work.scratch / "query"
        key = digest_of([example.model_dump(mode="json") for example in self._examples])
        training_examples = self.objective.build_training_examples(self._examples, self.text, self.material.about)
        dataset = TokenizedDataset.write(folder, training_examples, key)
        if not len(dataset):
            reasons = {features.nothing for features in training_examples}
            raise DataError(
                f"nothing in the query has a loss: {', '.join(sorted(reasons)) or 'it has no rows'}",
                where=SourceLocation(field="query"),
                hint="ask about rows of the kind that was learnt",
            )
        if self.objective.needs_reference:
            self._refer(dataset, key)
        return dataset

    def _refer(self, dataset: TokenizedDataset, key: str) -> None:
        from luthier.tune.training.reference_logprobs import compute_row_logprobs

        start, tokens = self._start_model(), self.run.count_pack_tokens(self.material)
        dataset.add_reference_logprobs(range(len(dataset)), lambda rows: compute_row_logprobs(start, rows, tokens), key)

    def _start_model(self) -> Any:
        """Return the model before training."""
        self.reader.weights.set(self.start)
        return self.reader.model

    @cached_property
    def start(self) -> torch.Tensor:
        """The weights (P,) before the first step."""
        return self.reader.weights.get()

    def open_state(self, step: int) -> KeptState:
        """Load the weights that were kept after a step."""
        state = self.states.read(step)
        assert self.start is not None, "the start is noted before any state is taken up"
        self.reader.weights.load(state.weights)
        return state

    @cached_property
    def kept_steps(self) -> list[int]:
        """The steps of the kept states up to the saved weights; `ModelError` when there is none."""
        record = TrainingRecord.read(self.tuned)
        last = int((record.held_out or {}).get("saved_step") or record.steps or 0)
        steps = [step for step in self.states.steps if step <= last]
        if not steps:
            what = f"the weights of step {last} were saved, before the first state was kept"
            raise ModelError(what, where=SourceLocation(field="model"), hint="keep more states: raise `keep_states`")
        return steps

    @cached_property
    def rows_by_step(self) -> dict[int, list[RowSeen]]:
        """The rows of each step (from 1) up to the last kept state; `DataError` when a row no longer exists."""
        rows_seen: dict[int, list[RowSeen]] = {}
        clip = self.step.max_grad_norm
        norms = [line.get("grad_norm") for line in self._log]
        for step, ids in self.states.rows.items():
            if step > self.kept_steps[-1]:
                continue
            if gone := [key for key in ids if key not in self.numbers]:
                raise DataError(
                    f"the training saw rows that its data no longer hold: {gone[0]}",
                    where=SourceLocation(field="data"),
                    hint="make the data and the model anew: `luthier run`",
                )
            numbers = [self.numbers[key] for key in ids]
            norm = norms[step - 1]
            scale = min(1.0, clip / norm) if clip is not None and norm else 1.0
            share = scale * self.states.rates[step - 1] / self.objective.denominator(self.rows_of(numbers))
            rows_seen[step] = [RowSeen(number, share) for number in numbers]
        return rows_seen

    @cached_property
    def _log(self) -> list[dict[str, Any]]:
        import json

        return [json.loads(line) for line in self.tuned.path("log.jsonl").read_text(encoding="utf-8").splitlines()]

    def weigh_rows(self) -> dict[int, torch.Tensor]:
        """Return (rows,) by kept step: the weight of each row's gradient in the steps nearest to that state."""
        kept = self.kept_steps
        row_weights = {step: torch.zeros(len(self.keys), dtype=torch.float64) for step in kept}
        for step, rows in self.rows_by_step.items():
            nearest = min(kept, key=lambda own: (abs(own - step), own))
            for row, share in rows:
                row_weights[nearest][row] += share
        return row_weights

    def mean_loss(self, query: QueryRows, reader: LossReader | None = None) -> float:
        """Return the mean loss in nats of a query's rows at the current weights."""
        reader = reader or self.reader
        return reader.total(reader.build_packs(query.rows)) / self.objective.denominator(query.rows)

    def mean_gradient(self, query: QueryRows) -> torch.Tensor:
        """Return the gradient (P,) of that loss."""
        total = self.reader.gradient(self.reader.build_packs(query.rows))
        return total / self.objective.denominator(query.rows)

    def alone(self, rows: Sequence[TokenRow]) -> list[Pack]:
        """Return the packs of one row, with its own shared prefixes."""
        return self.reader.build_packs(rows)
