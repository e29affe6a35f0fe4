"""Training rows of a trial that are, or come from, rows on which trials are measured.

Such rows are rare, and not a fault of the option: an operator that edits prompts moves their rows to other sides of the
split. `SearchSpace.exclude_rows` makes the trial's data without them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from luthier.artifacts.dataset import MADE, has_split
from luthier.core.artifact import Artifact
from luthier.data.dedup.shingles import digest16, prompt_key
from luthier.data.engine.cache import read_rows
from luthier.data.row import Row
from luthier.data.split import TEST, TRAIN, VALIDATION


def find_leaked_rows(
    trial_data: Artifact, data: Artifact, yardstick_ids: Collection[str] = (), *, splits: Collection[str] = ()
) -> Mapping[str, str]:
    """Ids of a trial's training rows that may not be learnt, each with the reason; in the order of the rows.

    `data` is the data set of the searched step, whose rows in `splits` (validation and test when not given) are held
    out, and those of `yardstick_ids`, wherever they stand in it. A trial's row leaks when it is one of them, when it
    was made out of one (also by way of other made rows), when its prompt has the same text but for case and white
    space, or when `data` left it out as a twin of one.
    """
    held = {*yardstick_ids}
    prompts: dict[bytes, str] = {}
    for split in (VALIDATION, TEST, TRAIN):
        for row in _iterate_rows(data, split):
            if row.id in held or (split != TRAIN if not splits else split in splits):
                held.add(row.id)
                prompts.setdefault(_text(row), row.id)
    twins = _dropped_twins(data, held)
    parents: dict[str, tuple[str, ...]] = {}
    found: dict[str, str] = {}
    for row in _iterate_rows(trial_data, TRAIN):
        parents[row.id] = tuple(row.meta.get(MADE, {}).get("parents", ()))
        if row.id in held:
            found[row.id] = "is held out"
        elif row.id in twins:
            found[row.id] = f"is a twin of {twins[row.id]}, which is held out"
        elif (same := prompts.get(_text(row))) is not None:
            found[row.id] = f"has the prompt of {same}, which is held out"
    marked = held | twins.keys() | found.keys()
    for row_id in parents:
        if row_id not in found and (source := _marked_ancestor(row_id, parents, marked)) is not None:
            found[row_id] = f"was made of {source}, which is held out"
    return {row_id: found[row_id] for row_id in parents if row_id in found}


def _iterate_rows(data: Artifact, split: str) -> Iterator[Row]:
    if has_split(data, split):
        for rows in read_rows(data, split):
            yield from rows


def _text(row: Row) -> bytes:
    return digest16(prompt_key(row))


def _dropped_twins(data: Artifact, held: Collection[str]) -> dict[str, str]:
    """Rows that the data set left out as duplicates of held-out ones, each with its twin."""
    import polars

    if not any(entry.path == "events.parquet" for entry in data.manifest.files):
        return {}
    events = polars.scan_parquet(data.path("events.parquet"))
    dropped = events.filter((polars.col("action") == "drop") & polars.col("twin").is_in(sorted(held)))
    return {row_id: twin for row_id, twin in dropped.select("id", "twin").collect().iter_rows() if row_id not in held}


def _marked_ancestor(row_id: str, parents: Mapping[str, tuple[str, ...]], marked: Collection[str]) -> str | None:
    """Return the nearest marked row among those that a row was derived from."""
    waiting, visited = [*parents[row_id]], {row_id}
    while waiting:
        parent = waiting.pop(0)
        if parent in marked:
            return parent
        if parent not in visited:
            visited.add(parent)
            waiting += parents.get(parent, ())
    return None
