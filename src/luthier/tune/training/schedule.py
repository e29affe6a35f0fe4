"""The order of examples and the learning rate, as pure functions of seed and step, so no state is saved.

A curriculum (Bengio et al. 2009) sorts the examples by a number of each row, such as its length or a score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from luthier.artifacts.dataset import read_split_columns
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, SourceLocation, did_you_mean

if TYPE_CHECKING:
    import numpy

    from luthier.tune.dataset.tokenized import TokenizedDataset

Shape = Literal["linear", "cosine", "constant", "wsd"]
DECAY = 0.2
"""Default share of all steps over which `wsd` decays (Hägele et al., 2024)."""


@dataclass(frozen=True, kw_only=True)
class BatchSampler:
    """The order of all training examples: `count` examples over `epochs` epochs, in batches."""

    seed: int
    count: int
    epochs: float
    batch_size: int
    first: numpy.ndarray[Any, Any] | None = field(default=None, compare=False)
    """(count,) indices of the examples in the order of the first epochs; None: random, as in all others."""
    first_epochs: int = 0
    """Number of epochs with that order."""
    max_steps: int | None = None
    """Maximum number of steps; the order before it does not change."""
    without: frozenset[int] = frozenset()
    """Examples without weight: their positions in the order stay empty."""

    @property
    def total(self) -> int:
        """Examples seen in all, repeats included; at least one."""
        whole = max(1, round(self.count * self.epochs))
        return whole if self.max_steps is None else min(whole, self.max_steps * self.batch_size)

    @property
    def steps(self) -> int:
        """Number of optimizer steps; the last one may be short."""
        return math.ceil(self.total / self.batch_size)

    @property
    def whole_steps(self) -> int:
        """Length of the learning rate schedule."""
        return self.steps

    def compute_rate_factor(self, step: int, shape: Shape, warmup_steps: int, decay: float) -> float:
        """Return the factor on the peak learning rate at a step (from 0)."""
        return compute_lr_factor(step, self.whole_steps, shape, warmup_steps, decay)

    def end_of(self, epoch: int) -> int:
        """Return the number of steps after which an epoch ends; more than `steps` where training ends before."""
        return math.ceil(epoch * self.count / self.batch_size)

    def first_seen(self, number: int) -> list[int]:
        """Return the first `number` distinct examples, or all. They do not depend on where training ends."""
        return [self._example_index(at) for at in range(min(number, self.count))]

    def get_batch_indices(self, step: int) -> list[int]:
        """Return the indices of the examples in a step (from 0): each epoch goes through all of them in a new order."""
        begin = step * self.batch_size
        examples = [self._example_index(at) for at in range(begin, min(begin + self.batch_size, self.total))]
        return [index for index in examples if index not in self.without] if self.without else examples

    def _example_index(self, at: int) -> int:
        if self.first is not None and at < self.first_epochs * self.count:
            return int(self.first[at % self.count])
        return int(permute_examples(self.seed, at // self.count, self.count)[at % self.count])


@lru_cache(maxsize=2)
def permute_examples(seed: int, epoch: int, count: int) -> numpy.ndarray[tuple[int], numpy.dtype[numpy.int64]]:
    """Return a permutation of `count` examples, for one epoch."""
    import numpy

    return numpy.random.Generator(numpy.random.PCG64([seed, epoch])).permutation(count)


def choose_used_examples(seed: int, count: int, limit: int | None) -> list[int]:
    """Return the examples that are used when not all are: chosen by the seed, in source order."""
    if limit is None or limit >= count:
        return list(range(count))
    import numpy

    drawn = numpy.random.Generator(numpy.random.PCG64([seed, 1 << 32])).permutation(count)[:limit]
    return sorted(int(at) for at in drawn)


def count_warmup_steps(steps: int, ratio: float) -> int:
    """Return the warm-up steps for a share of all steps: at least one, or none for a share of 0."""
    return max(1, round(ratio * steps)) if ratio > 0 else 0


def find_decay_start(steps: int, shape: Shape, warmup_steps: int, decay: float) -> int:
    """Return the first step (from 0) of the decay.

    `wsd` decays over a share `decay` of all steps, at least two, since the first one still has the full rate; all other
    shapes decay from the end of the warm-up.
    """
    return max(warmup_steps, steps - max(2, round(decay * steps))) if shape == "wsd" else warmup_steps


def count_trunk_steps(steps: int, shape: Shape, warmup_steps: int, decay: float) -> int:
    """Return the steps (from the first) that are the same in every longer training with the same warm-up; 0: none.

    Up to the decay of `wsd`, and all of a constant rate; but never the last step, which may be short and is measured.
    """
    if shape not in ("wsd", "constant"):
        return 0
    ahead = steps if shape == "constant" else find_decay_start(steps, shape, warmup_steps, decay)
    return max(0, min(ahead, steps - 1))


def compute_lr_factor(step: int, steps: int, shape: Shape, warmup_steps: int, decay: float) -> float:
    """Return the factor on the peak learning rate at a step (from 0): it rises over the warm-up, then follows the
    shape.

    `decay` is the share of all steps over which `wsd` decays, by one minus the square root of the progress (Hägele et
    al., 2024).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    decay_start = find_decay_start(steps, shape, warmup_steps, decay)
    gone = max(0, step - decay_start) / max(1, steps - decay_start)
    return _FALLS[shape](gone)


_FALLS: dict[Shape, Callable[[float], float]] = {
    "linear": lambda gone: 1.0 - gone,
    "cosine": lambda gone: 0.5 * (1.0 + math.cos(math.pi * gone)),
    "constant": lambda gone: 1.0,
    "wsd": lambda gone: 1.0 - math.sqrt(gone),
}
"""The learning rate factor by the progress of the decay, from 0 to 1."""


TOKENS = "tokens"
_WHERE = SourceLocation(field="curriculum.by")


class Curriculum(BaseModel):
    """The order in which rows are first seen, in place of a random one (Bengio et al., 2009)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: str = TOKENS
    """The number to sort by: `tokens` of the row, a column of the data (`meta.difficulty`), or one that an operator
    wrote (`quality.broken`). Equal rows are in a random order, rows without it come last."""
    first: Literal["lowest", "highest"] = "lowest"
    """Which end comes first."""
    epochs: int = Field(default=1, ge=1)
    """Number of epochs with this order; later ones are random."""


def order_by_curriculum(
    curriculum: Curriculum, data: Artifact, dataset: TokenizedDataset, seed: int
) -> numpy.ndarray[Any, Any]:
    """Return (examples,) their indices in the order of the curriculum: a pure function of the data and the seed."""
    import numpy

    values = numpy.asarray(dataset.sizes if curriculum.by == TOKENS else _values(curriculum.by, data, dataset), float)
    values = values if curriculum.first == "lowest" else -values
    drawn = permute_examples(seed, 0, len(dataset))
    return drawn[numpy.argsort(values[drawn], kind="stable")]  # what is no number stands last


def _values(by: str, data: Artifact, dataset: TokenizedDataset) -> list[float]:
    numbers = {name: _parse_number(value, by, name) for name, value in _column(by, data)}
    if all(map(math.isnan, numbers.values())):
        raise DataError(f"no training row has a number in {by!r}", where=_WHERE, hint="name a column of numbers")
    return [numbers.get(key, float("nan")) for key in dataset.keys]


def _column(by: str, data: Artifact) -> Iterator[tuple[str, Any]]:
    """Yield the id of each row and its value in the column; `DataError` for an unknown column."""
    import json

    import polars

    table, _, name = by.partition(".")
    if table == "meta" and name:
        for row in read_split_columns(data, "train", "id", "meta"):
            yield row["id"], json.loads(row["meta"] or "{}").get(name)
        return
    files = {
        entry.path.removeprefix("attributes/").removesuffix(".parquet"): entry.path
        for entry in data.manifest.files
        if entry.path.startswith("attributes/")
    }
    known = {f"{operator}.{column}": operator for operator, path in files.items() for column in _names(data, path)}
    if by not in known:
        hint = did_you_mean(by, {TOKENS, "meta.COLUMN", *known})
        raise DataError(f"the rows have no {by!r}", where=_WHERE, hint=hint)
    read = polars.read_parquet(data.path(files[table]), columns=["id", name])
    yield from zip(read["id"].to_list(), read[name].to_list(), strict=True)


def _names(data: Artifact, path: str) -> list[str]:
    from pyarrow.parquet import read_schema

    return [name for name in read_schema(data.path(path)).names if name != "id"]


def _parse_number(value: Any, by: str, row: str) -> float:
    try:
        return float("nan") if value is None or value == "" else float(value)
    except (TypeError, ValueError):
        what = f"row {row} has {str(value)[:40]!r} in {by!r}, which is no number"
        raise DataError(what, where=_WHERE, hint="name a column of numbers") from None
