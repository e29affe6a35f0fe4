"""What an operator says of the twins that it found: who stays for whom, and how similar they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.data.operator import Edit
from luthier.data.passes.columns import numbers, texts_of
from luthier.data.passes.columns import places as rows_at
from luthier.data.verdicts import Drops, Reasons, Sparse

if TYPE_CHECKING:
    from luthier.data.twins.twins import Found


@dataclass(frozen=True, slots=True)
class Told:
    """What is said of all rows of a corpus, in a few bytes for each that has a twin and none for the others."""

    drops: Drops = field(default_factory=lambda: Drops.of({}))
    attributes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    edits: Mapping[int, list[Edit]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)


def told(found: Found, rows: int, name: Callable[[int], str], drop: str | None) -> Told:
    """Columns `cluster` (the id of the row that stays or heads) and `similarity`, and drops for the reason `drop`."""
    heads, which = np.unique(found.of, return_inverse=True)
    names = texts_of(name, heads)
    places = np.concatenate([found.places, heads])
    order = np.argsort(places)
    clusters = names.take(rows_at(np.concatenate([which, np.arange(len(heads))])[order]))
    by_place = np.argsort(found.places)
    columns = {
        "cluster": Sparse(rows, None, places[order], clusters, "text"),
        "similarity": Sparse(rows, None, found.places[by_place], numbers(found.similarities[by_place]), "number"),
    }
    if drop is None:
        return Told(attributes=columns)
    why = Reasons([drop] * len(which), names.take(rows_at(which)), numbers(found.similarities))
    return Told(Drops(found.places, why), columns)
