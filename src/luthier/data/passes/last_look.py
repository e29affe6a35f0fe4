"""The last look: whether a row that stays holds what an operator should have taken out, wherever it came from since."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from luthier.core.errors import DataError, Where
from luthier.data.operator import Operator
from luthier.data.passes.apply import Named
from luthier.data.passes.columns import counts_in, mask
from luthier.data.passes.engine import Books
from luthier.data.passes.spill import Spill
from luthier.data.passes.tables import from_arrow

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


def last_look(spill: Spill, operators: Sequence[Named], books: Books) -> None:
    """Refuse rows that hold what an operator should have taken out.

    A row in which it had found nothing is looked at again only when a later operator has edited any row.
    """
    looking = [
        (one, any(books.edited[later.name] for later in operators[place + 1 :]))
        for place, one in enumerate(operators)
        if type(one.operator).leftover is not Operator.leftover
    ]
    for table in spill.batches() if looking else ():
        for one, was_edited in looking:
            _look(table if was_edited else table.filter(_troubled(table, one)), one.operator)


def _look(table: pa.RecordBatch, operator: Operator) -> None:
    for row in from_arrow(table).rows:
        if (left := operator.leftover(row)) is not None:
            where = Where(file=row.file, line=row.line, field=left.field)
            raise DataError(f"{left.what} is left in the row after all operators", where=where, remedy=left.remedy)


def _troubled(table: pa.RecordBatch, one: Named) -> pa.Array:
    """The rows that the operator cannot vouch for by what it counted."""
    untroubled = one.operator.untroubled(dict(_counts(table, one)))
    return mask(np.ones(table.num_rows, dtype=bool) if untroubled is None else ~untroubled)


def _counts(table: pa.RecordBatch, one: Named) -> Iterator[tuple[str, NDArray[np.int64]]]:
    for name, kind in one.operator.writes.items():
        if kind == "count":
            yield name, counts_in(table.column(f"{one.name}.{name}"))
