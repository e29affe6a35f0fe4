"""What an operator says of the twins that it found: who stays for whom, and how similar they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.data.decisions import DropReasons, Drops, SparseColumn
from luthier.data.engine.columns import build_text_column, to_float_column
from luthier.data.engine.columns import to_arrow_indices as rows_at
from luthier.data.operator import TextEdit

if TYPE_CHECKING:
    from luthier.data.dedup.duplicates import DuplicatePairs


@dataclass(frozen=True, slots=True)
class DedupReport:
    """What is said of all rows of a corpus, in a few bytes for each that has a twin and none for the others."""

    drops: Drops = field(default_factory=lambda: Drops.of({}))
    attributes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    edits: Mapping[int, list[TextEdit]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)


def report_duplicates(found: DuplicatePairs, rows: int, name: Callable[[int], str], drop: str | None) -> DedupReport:
    """Columns `cluster` (the id of the row that stays or heads) and `similarity`, and drops for the reason `drop`."""
    heads, which = np.unique(found.of, return_inverse=True)
    names = build_text_column(name, heads)
    indices = np.concatenate([found.indices, heads])
    order = np.argsort(indices)
    clusters = names.take(rows_at(np.concatenate([which, np.arange(len(heads))])[order]))
    by_place = np.argsort(found.indices)
    columns = {
        "cluster": SparseColumn(rows, None, indices[order], clusters, "text"),
        "similarity": SparseColumn(
            rows, None, found.indices[by_place], to_float_column(found.similarities[by_place]), "number"
        ),
    }
    if drop is None:
        return DedupReport(attributes=columns)
    why = DropReasons([drop] * len(which), names.take(rows_at(which)), to_float_column(found.similarities))
    return DedupReport(Drops(found.indices, why), columns)
