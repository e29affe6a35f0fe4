"""What an operator says of the twins that it found: who stays for whom, and how similar they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from luthier.data.operator import Drop, Outcome
from luthier.data.twins.twins import Twin


def told(found: Mapping[int, Twin], rows: int, name: Callable[[int], str], drop: str | None) -> Outcome:
    """Columns `cluster` (the id of the row that stays or heads) and `similarity`, and drops for the reason `drop`."""
    outcome = Outcome()
    names: list[str | None] = [None] * rows
    similarities: list[float | None] = [None] * rows
    for place, (first, similarity) in found.items():
        names[first] = names[place] = name(first)
        similarities[place] = similarity
        if drop is not None:
            outcome.drops[place] = Drop(drop, twin=names[place], similarity=similarity)
    outcome.attributes.update(cluster=names, similarity=similarities)
    return outcome
