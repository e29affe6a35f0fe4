"""The last look: whether a row that stays holds what an operator should have taken out, wherever it came from since."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from luthier.core.errors import DataError, SourceLocation
from luthier.data.engine.batch import NamedOperator
from luthier.data.engine.columns import int64_column_to_numpy, to_arrow_mask
from luthier.data.engine.executor import PassStats
from luthier.data.engine.spill import Spill
from luthier.data.engine.tables import ROW_COLUMNS, batch_from_arrow
from luthier.data.engine.workers import Workers
from luthier.data.operator import LeftoverPii, Operator

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


def refuse_leftover_pii(spill: Spill, operators: Sequence[NamedOperator], stats: PassStats, workers: Workers) -> None:
    """Raise `DataError` when any row still holds personal data that an operator should have removed.

    A row in which it had found nothing is looked at again only when a later operator has edited any row.
    """
    looking = [
        (
            operator.name,
            operator.operator.settings(),
            any(stats.edited[later.name] for later in operators[position + 1 :]),
        )
        for position, operator in enumerate(operators)
        if type(operator.operator).leftover is not Operator.leftover
    ]
    setup = json.dumps(looking)
    jobs = ((setup, spill, index) for index in range(len(spill) if looking else 0))
    for found in workers.map(_looked_at, jobs):
        if found is not None:
            where, left = found
            raise DataError(f"{left.what} is left in the row after all operators", where=where, hint=left.hint)


def _looked_at(setup: str, spill: Spill, index: int) -> tuple[SourceLocation, LeftoverPii] | None:
    """The first that is left in one batch of a spill."""
    table = spill.batch(index)
    for named_operator, was_edited in _looking(setup):
        looked_at = table if was_edited else table.filter(_troubled(table, named_operator))
        rows = batch_from_arrow(looked_at.select(list(ROW_COLUMNS))).rows
        if found := named_operator.operator.leftover(rows):
            row, left = found
            return SourceLocation(file=row.file, line=row.line, field=left.field), left
    return None


@lru_cache(maxsize=1)
def _looking(setup: str) -> list[tuple[NamedOperator, bool]]:
    return [
        (NamedOperator(name, Operator.parse(settings)), was_edited) for name, settings, was_edited in json.loads(setup)
    ]


def _troubled(table: pa.RecordBatch, one: NamedOperator) -> pa.Array:
    """The rows that the operator cannot vouch for by what it counted."""
    untroubled = one.operator.untroubled(dict(_counts(table, one)))
    return to_arrow_mask(np.ones(table.num_rows, dtype=bool) if untroubled is None else ~untroubled)


def _counts(table: pa.RecordBatch, one: NamedOperator) -> Iterator[tuple[str, NDArray[np.int64]]]:
    for name, kind in one.operator.writes.items():
        if kind == "count":
            yield name, int64_column_to_numpy(table.column(f"{one.name}.{name}"))
