"""What a model finds of rows while nothing is learnt from them: the reference of a training, and what a step must know
of its own rows beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from luthier.models.lanes import read_packs
from luthier.models.logprobs import answering, logprobs
from luthier.models.pack import Pack, Row
from luthier.tune.objective import Objective


def as_learnt(model: Any, pack: Pack) -> Tensor:
    """(N,) log-probabilities, rounded as they are while the model learns."""
    return logprobs(model, pack, as_learnt=True)


def read_rows(
    model: Any, rows: Sequence[Row], tokens: int, ask: Callable[[Any, Pack], Tensor] = as_learnt
) -> list[list[float]]:
    """For each row the log-probabilities of its learnt tokens, by a model that reads so many tokens at once.

    They are rounded as they are while the model learns, so that a model that has not moved is its own reference.
    `ask` gives another number for each learnt token of a pack.
    """
    found: list[list[float]] = [[] for _ in rows]
    alone = [replace(row, key=str(at), mates=1, told={}) for at, row in enumerate(rows)]
    with torch.no_grad(), answering(model):
        for pack, said in read_packs(model, alone, tokens, partial(ask, model)):
            told = iter(said.tolist())
            for key, count in zip(pack.keys, pack.path.bincount(minlength=pack.rows).tolist(), strict=True):
                found[int(key)] = list(islice(told, count))
    return found


def sums_of_rows(model: Any, rows: Sequence[Row], tokens: int) -> list[float]:
    """For each row the weighted sum of the log-probabilities of its learnt tokens."""
    found = read_rows(model, rows, tokens)
    return [
        sum(row.learnt[at] * value for at, value in zip(row.targets, values, strict=True))
        for row, values in zip(rows, found, strict=True)
    ]


@contextmanager
def learning(model: Any, objective: Objective) -> Iterator[None]:
    """A model with the dropout that an objective learns with, for as long as it learns."""
    with answering(model):
        if not objective.draws:
            for module in model.modules() if objective.builtin_dropout else adapters_of(model):
                module.training = True
        yield


def adapters_of(model: Any) -> Iterator[Any]:
    """The modules that PEFT's model has beside the base's own, their dropout among them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            yield layer
            for name, part in layer.named_children():
                yield from part.modules() if name != "base_layer" else ()
