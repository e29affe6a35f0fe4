"""A course that begins with some rows: the shortest, the easiest, the best, in the order of a number that each has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, Where, did_you_mean
from luthier.text.dataset import columns
from luthier.tune.schedule import order

if TYPE_CHECKING:
    import numpy

    from luthier.tune.lessons import Lessons

TOKENS = "tokens"
_WHERE = Where(field="curriculum.by")


class Curriculum(BaseModel):
    """In which order rows come first, when not in a drawn one (Bengio et al., 2009)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: str = TOKENS
    """The number that decides: `tokens` of the row, a column of the data (`meta.difficulty`), or one that an operator
    wrote (`quality.broken`). Rows alike in it come in a drawn order, rows without it last."""
    first: Literal["lowest", "highest"] = "lowest"
    """Which end comes first."""
    epochs: int = Field(default=1, ge=1)
    """How many passes keep this order; those after are drawn anew, as without a curriculum."""


def ordered(curriculum: Curriculum, data: Artifact, lessons: Lessons, seed: int) -> numpy.ndarray[Any, Any]:
    """(lessons,) their numbers in the order of the curriculum: a pure function of the data and the seed."""
    import numpy

    values = numpy.asarray(lessons.sizes if curriculum.by == TOKENS else _values(curriculum.by, data, lessons), float)
    values = values if curriculum.first == "lowest" else -values
    drawn = order(seed, 0, len(lessons))
    return drawn[numpy.argsort(values[drawn], kind="stable")]  # what is no number stands last


def _values(by: str, data: Artifact, lessons: Lessons) -> list[float]:
    found = {name: _number(value, by, name) for name, value in _column(by, data)}
    if all(map(math.isnan, found.values())):
        raise DataError(f"no training row has a number in {by!r}", where=_WHERE, remedy="name a column of numbers")
    return [found.get(key, float("nan")) for key in lessons.keys]


def _column(by: str, data: Artifact) -> Iterator[tuple[str, Any]]:
    """The id of each row and what stands in the column; `DataError` when nothing is called so."""
    import json

    import polars

    table, _, name = by.partition(".")
    if table == "meta" and name:
        for row in columns(data, "train", "id", "meta"):
            yield row["id"], json.loads(row["meta"] or "{}").get(name)
        return
    files = {
        entry.path.removeprefix("attributes/").removesuffix(".parquet"): entry.path
        for entry in data.manifest.files
        if entry.path.startswith("attributes/")
    }
    known = {f"{operator}.{column}": operator for operator, path in files.items() for column in _names(data, path)}
    if by not in known:
        remedy = did_you_mean(by, {TOKENS, "meta.COLUMN", *known})
        raise DataError(f"the rows have no {by!r}", where=_WHERE, remedy=remedy)
    read = polars.read_parquet(data.path(files[table]), columns=["id", name])
    yield from zip(read["id"].to_list(), read[name].to_list(), strict=True)


def _names(data: Artifact, path: str) -> list[str]:
    from pyarrow.parquet import read_schema

    return [name for name in read_schema(data.path(path)).names if name != "id"]


def _number(value: Any, by: str, row: str) -> float:
    try:
        return float("nan") if value is None or value == "" else float(value)
    except (TypeError, ValueError):
        what = f"row {row} has {str(value)[:40]!r} in {by!r}, which is no number"
        raise DataError(what, where=_WHERE, remedy="name a column of numbers") from None
