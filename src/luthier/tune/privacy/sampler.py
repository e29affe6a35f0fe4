"""Poisson sampling of a private training: each step includes every unit independently with the same probability."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Self

from luthier.artifacts.dataset import read_split_columns
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, SourceLocation, did_you_mean
from luthier.tune.privacy.noise import NoiseKey
from luthier.tune.privacy.settings import ROW
from luthier.tune.training.schedule import BatchSampler


@dataclass(frozen=True, kw_only=True)
class PoissonSampler(BatchSampler):
    """Steps that include each unit with probability `sampling`, so that `batch_size` rows come on average.

    There are as many steps as in a training by epochs.
    """

    key: NoiseKey = field(compare=False)
    units: tuple[tuple[int, ...], ...] = ()
    """The examples of each unit."""

    @classmethod
    def of(cls, sampler: BatchSampler, key: NoiseKey, units: tuple[tuple[int, ...], ...]) -> Self:
        """Build a Poisson sampler over units with as many steps as another sampler."""
        return cls(
            seed=sampler.seed,
            count=sampler.count,
            epochs=sampler.epochs,
            batch_size=sampler.batch_size,
            max_steps=sampler.max_steps,
            key=key,
            units=units,
        )

    @property
    def sampling(self) -> float:
        """The probability with which a step includes a unit."""
        return min(1.0, self.batch_size / self.count)

    @property
    def expected_units(self) -> float:
        """Expected number of units of a step: the denominator of the sum of their gradients."""
        return self.sampling * len(self.units)

    @cached_property
    def _units_by_step(self) -> dict[int, list[int]]:
        return {}

    def units_of(self, step: int) -> list[int]:
        """Return the indices of the units in a step (from 0)."""
        if step not in self._units_by_step:
            drawn = self.key.draw_uniform(f"units/{step}", len(self.units)) <= self.sampling
            self._units_by_step[step] = drawn.nonzero()[0].tolist()
        return self._units_by_step[step]

    def get_batch_indices(self, step: int) -> list[int]:
        """Return the examples of the units in a step, unit by unit; empty where it has none."""
        return list(chain.from_iterable(self.units[unit] for unit in self.units_of(step)))


def group_units(unit: str, example_ids: Sequence[str], data: Artifact) -> tuple[tuple[int, ...], ...]:
    """Return the examples of each unit: each one alone, or those whose rows have the same value in a column of `meta`.

    `example_ids` are in order. `DataError` for a missing column, or a row without a value.
    """
    if unit == ROW:
        return tuple((number,) for number in range(len(example_ids)))
    table, _, column = unit.partition(".")
    where = SourceLocation(field="privacy.unit")
    if table != "meta" or not column:
        raise DataError(f"expected `row` or `meta.COLUMN`, got {unit!r}", where=where, hint=did_you_mean(unit, {ROW}))
    values = dict(_read_column(data, column))
    units: dict[str, list[int]] = {}
    for number, example_id in enumerate(example_ids):
        if values.get(example_id) is None:
            what = f"row {example_id} has no value in {column!r}, by which rows are protected together"
            raise DataError(what, where=where, hint="name another column, or protect each `row`")
        units.setdefault(str(values[example_id]), []).append(number)
    return tuple(map(tuple, units.values()))


def _read_column(data: Artifact, column: str) -> Iterable[tuple[str, object]]:
    import json

    for row in read_split_columns(data, "train", "id", "meta"):
        yield row["id"], json.loads(row["meta"] or "{}").get(column)
