"""Log-probabilities of a reference model, and the validation loss and metric of held-out rows.

Rows are read without training: for the reference of an objective, and for what a step needs of its own rows in advance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from luthier.metrics.intervals import sum_rows
from luthier.metrics.metric import EvalPredictions, Metric
from luthier.models.generate import score_options, score_with_sequence_head
from luthier.models.lm.base import Normalize, normalize_option_scores
from luthier.models.packing.logprobs import compute_pack_logprobs, disable_dropout
from luthier.models.packing.pack import Pack, TokenRow
from luthier.models.packing.parallel import run_packs
from luthier.models.sequence_head import get_head_outputs, unwrap_peft_model
from luthier.tune.dataset.tokenized import TokenizedDataset
from luthier.tune.objective import REFERENCE, Loss, Objective, Teacher, read_pack_logprobs


def compute_train_precision_logprobs(model: Any, pack: Pack) -> Tensor:
    """Return (N,) log-probabilities, rounded as during training."""
    return compute_pack_logprobs(model, pack, training_precision=True)


def compute_row_logprobs(
    model: Any,
    rows: Sequence[TokenRow],
    tokens: int,
    ask: Callable[[Any, Pack], Tensor] = compute_train_precision_logprobs,
) -> list[list[float]]:
    """Return for each row the log-probabilities of its trained tokens, in packs of at most `tokens` tokens.

    They are rounded as during training, so that an unchanged model equals its own reference. `ask` computes another
    number for each trained token of a pack.
    """
    logprobs: list[list[float]] = [[] for _ in rows]
    alone = [replace(row, key=str(at), group_size=1, token_values={}) for at, row in enumerate(rows)]
    with torch.no_grad(), disable_dropout(model):
        for pack, values in run_packs(model, alone, tokens, partial(ask, model)):
            remaining = iter(values.tolist())
            for key, count in zip(pack.keys, pack.path.bincount(minlength=pack.rows).tolist(), strict=True):
                logprobs[int(key)] = list(islice(remaining, count))
    return logprobs


def compute_row_logprob_sums(model: Any, rows: Sequence[TokenRow], tokens: int) -> list[float]:
    """Return for each row the weighted sum of the log-probabilities of its trained tokens."""
    logprobs = compute_row_logprobs(model, rows, tokens)
    return [
        sum(row.loss_weights[at] * value for at, value in zip(row.targets, values, strict=True))
        for row, values in zip(rows, logprobs, strict=True)
    ]


@contextmanager
def enable_dropout(model: Any, objective: Objective) -> Iterator[None]:
    """Enable the dropout that an objective trains with, within a context."""
    with disable_dropout(model):
        if not objective.draws:
            for module in model.modules() if objective.builtin_dropout else list_adapter_modules(model):
                module.training = True
        yield


def list_adapter_modules(model: Any) -> Iterator[Any]:
    """Yield the modules that PEFT adds to the base model, their dropout included."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            yield layer
            for name, part in layer.named_children():
                yield from part.modules() if name != "base_layer" else ()


TOGETHER = 128
"""Number of rows that are read at once."""


@dataclass(frozen=True)
class LabelQuestions:
    """Held-out rows as questions with a label each."""

    prompts: Sequence[Sequence[int]]
    choices: Sequence[Sequence[Sequence[int]]]
    """Token ids of each label's text, for each prompt."""
    labels: Sequence[str]
    """The labels in the order of the choices."""
    references: Sequence[str]
    normalize: Normalize = "sum"
    """How a label's score follows from its tokens' log-probabilities, as in the objective."""


class HeldOutEvaluator(NamedTuple):
    """Measures a model's held-out loss and metrics during training."""

    objective: Objective
    dataset: TokenizedDataset
    teacher: Teacher | None = None
    metric: Metric | None = None
    questions: LabelQuestions | None = None

    def take(self, model: Any, tokens: int) -> dict[str, float]:
        """Return `held_out_loss`, the objective's own measures, and the metric by its name, in packs of at most
        `tokens` tokens.
        """
        with torch.no_grad(), disable_dropout(model):
            measures = {f"held_out_{name}": value for name, value in self._losses(model, tokens).items()}
            if self.metric is not None and self.questions is not None:
                measures[f"held_out_{self.metric.kind}"] = measure_label_metric(
                    model, self.metric, self.questions, tokens
                )
        return measures

    def _losses(self, model: Any, tokens: int) -> dict[str, float]:
        """Return the loss and the measures that may decide: sums over all held-out rows, divided by one denominator."""
        sums, weight = dict.fromkeys(("loss", *self.objective.measured), 0.0), 0.0
        for begin in range(0, len(self.dataset), TOGETHER):
            numbers = range(begin, min(begin + TOGETHER, len(self.dataset)))
            rows = [row for number in numbers for row in self.dataset.rows(number)]
            rows = self.objective.prepare_rows(rows, lambda some: compute_row_logprob_sums(model, some, tokens))
            weight += self.objective.denominator(rows)
            for _, loss in run_packs(model, rows, tokens, partial(self._loss, model)):
                sums["loss"] += float(loss.total)
                for name in self.objective.measured:
                    sums[name] += float(loss.measures[name].sum())
        return {name: value / weight for name, value in sums.items()}

    def _loss(self, model: Any, pack: Pack) -> Loss:
        logp, pack = read_pack_logprobs(
            model, self.objective, self.objective.ready(pack, self.teacher), compute_pack_logprobs
        )
        return self.objective.loss(logp, pack, pack.token_values.get(REFERENCE))


def measure_label_metric(model: Any, metric: Metric, questions: LabelQuestions, tokens: int) -> float:
    """Return a metric of the labels that a model ranks first, by the code of evaluation."""
    scores: list[Mapping[str, float]] = []
    named = get_head_outputs(unwrap_peft_model(model))
    for begin in range(0, len(questions.prompts), TOGETHER):
        batch = slice(begin, begin + TOGETHER)
        if named:
            label_scores = score_with_sequence_head(model, questions.prompts[batch], tokens=tokens)
        else:
            choices = questions.choices[batch]
            sums = score_options(model, questions.prompts[batch], choices, tokens=tokens)
            token_sums = [list(zip(row, map(len, own), strict=True)) for row, own in zip(sums, choices, strict=True)]
            label_scores = [normalize_option_scores(questions.normalize, row) for row in token_sums]
        scores += [dict(zip(named or questions.labels, row, strict=True)) for row in label_scores]
    predictions = [max(questions.labels, key=row.__getitem__) for row in scores]
    answers = EvalPredictions.of(predictions, questions.references, label_scores=scores)
    metric.check(answers)
    return float(metric.value(sum_rows(metric.statistics(answers)))[0])
