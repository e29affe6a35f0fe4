"""Simulated sites: the training rows of one data set, dealt to many sites of this process.

Shares of classes follow a Dirichlet distribution (Hsu, Qi and Brown, 2019), as federated learning is usually compared;
or each value of a column is a site, or rows are dealt at random.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luthier.artifacts.dataset import DatasetSummary, read_split_frame
from luthier.core.component import add_field_descriptions
from luthier.core.errors import DataError, RecipeError, SourceLocation, did_you_mean
from luthier.federated.measure import describe_folder

if TYPE_CHECKING:
    import numpy
    import polars

    from luthier.core.artifact import Artifact

SPLIT = "train"
"""The rows that are dealt; all others stay with the data set, for a step `evaluate`."""
MOST_SITES = 10_000


class PartitionSettings(BaseModel):
    """How the training rows of one data set are dealt to simulated sites: `{number: 100, alpha: 0.1}` or
    `{column: branch}`."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=add_field_descriptions)

    number: int | None = Field(default=None, ge=2, le=MOST_SITES)
    """Number of sites."""
    alpha: float | None = Field(default=None, gt=0, le=1e6)
    """Concentration of the Dirichlet distribution of classes over sites: 0.1 gives most sites few classes, 100 nearly
    equal shares. Rows are distributed evenly at random when not given."""
    column: str | None = None
    """A column of the data: each of its values is a site."""
    min_rows: int = Field(default=1, ge=1)
    """Rows that each site has at least. With `alpha`, rows of the largest sites go to those that have fewer; with
    `column`, values with fewer rows are no sites."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.number is None) == (self.column is None):
            raise ValueError("give the `number` of sites, or the `column` that names them")
        if self.alpha is not None and self.number is None:
            raise ValueError("`alpha` is for a `number` of sites; leave it out with `column`")
        return self


def partition_rows(settings: PartitionSettings, data: Artifact, seed: int) -> dict[str, list[int]]:
    """Places of the training rows of each site, ascending, by the site's name.

    `DataError` where there are too few rows, or no classes for `alpha`; `RecipeError` for a column that is not there.
    """
    import numpy

    frame = read_split_frame(data, SPLIT)
    generator = numpy.random.Generator(numpy.random.Philox(_derive_seed(seed)))
    if settings.column is not None:
        return _partition_by_column(settings, frame)
    number = settings.number or 0
    if len(frame) < number * settings.min_rows:
        what = f"{len(frame):,} training rows are too few for {number:,} sites of {settings.min_rows} or more"
        raise DataError(what, where=SourceLocation(field="partition.number"), hint="set fewer sites")
    if settings.alpha is None:
        order = generator.permutation(len(frame))
        parts = [order[at::number].tolist() for at in range(number)]
    else:
        labels = frame["label"].to_list() if "label" in frame.columns else []
        if not any(labels):
            what = "the data set has no classes, whose shares `alpha` draws"
            raise DataError(what, where=SourceLocation(field="partition.alpha"), hint="leave alpha out, or set column")
        parts = _draw_shares(labels, number, settings.alpha, generator)
        _fill_small_sites(parts, settings.min_rows)
    width = len(str(number - 1))
    return {f"site-{at:0{width}}": sorted(indices) for at, indices in enumerate(parts)}


def _derive_seed(seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"partition {seed}".encode()).digest()[:8], "big")


def _draw_shares(
    labels: Sequence[str | None], number: int, alpha: float, generator: numpy.random.Generator
) -> list[list[int]]:
    """The rows of each class, shuffled and cut by shares that are drawn for the class."""
    import numpy

    parts: list[list[int]] = [[] for _ in range(number)]
    for label in sorted({name or "" for name in labels}):
        indices = generator.permutation([at for at, name in enumerate(labels) if (name or "") == label])
        ends = (numpy.cumsum(generator.dirichlet(numpy.full(number, alpha))) * len(indices)).round().astype(int)
        ends[-1] = len(indices)
        for at, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            parts[at] += indices[begin:end].tolist()
    return parts


def _fill_small_sites(parts: list[list[int]], min_rows: int) -> None:
    """Move rows from the largest sites to those with too few, the smallest first."""
    largest = [(-len(indices), at) for at, indices in enumerate(parts)]
    heapq.heapify(largest)
    for at in sorted(range(len(parts)), key=lambda at: (len(parts[at]), at)):
        while len(parts[at]) < min_rows:
            size, donor = heapq.heappop(largest)
            if donor == at or -size != len(parts[donor]):
                if donor != at:
                    heapq.heappush(largest, (-len(parts[donor]), donor))
                continue
            parts[at].append(parts[donor].pop())
            heapq.heappush(largest, (-len(parts[donor]), donor))


def _partition_by_column(settings: PartitionSettings, frame: polars.DataFrame) -> dict[str, list[int]]:
    """Rows by the values of a column, in the order of the values."""
    values = _read_column(str(settings.column), frame)
    found: dict[str, list[int]] = {}
    for at, value in enumerate(values):
        found.setdefault(value, []).append(at)
    kept = {value: found[value] for value in sorted(found) if len(found[value]) >= settings.min_rows}
    where = SourceLocation(field="partition.column")
    if len(kept) < 2:
        what = f"column {settings.column!r} has {len(kept)} values of {settings.min_rows} or more training rows"
        raise DataError(what, where=where, hint="name a column with a value for each site")
    if len(kept) > MOST_SITES:
        raise DataError(
            f"column {settings.column!r} has {len(kept):,} values, and sites are at most {MOST_SITES:,}", where=where
        )
    return kept


def _read_column(name: str, frame: polars.DataFrame) -> list[str]:
    """The values of a column of the source, as text; `RecipeError` where there is none of that name."""
    if name == "label" and "label" in frame.columns:
        return [str(value) for value in frame["label"].to_list()]
    metas = [json.loads(text) if isinstance(text, str) else (text or {}) for text in frame["meta"].to_list()]
    known = sorted({key for meta in metas for key in meta})
    if name not in known:
        raise RecipeError(
            f"no training row has a column {name!r}",
            where=SourceLocation(field="partition.column"),
            hint=did_you_mean(name, known) or f"columns are {', '.join(known[:20]) or 'label'}",
        )
    return [str(meta.get(name)) for meta in metas]


def write_site_rows(data: Artifact, indices: Sequence[int], folder: Path, digest: str) -> Artifact:
    """Write some training rows as a data set that is in no store; its media are found in the whole one."""
    if not (folder / "summary.json").is_file():
        summary = DatasetSummary.read(data)
        (folder / "examples").mkdir(parents=True, exist_ok=True)
        read_split_frame(data, SPLIT)[list(indices)].write_parquet(folder / "examples" / f"{SPLIT}.parquet")
        own = {"rows_in": len(indices), "rows": {SPLIT: len(indices)}, "dropped": {}, "made": {}, "sources": []}
        summary.model_copy(update=own).write(folder)
    return describe_folder(folder, digest, data.manifest.kind, "dataset", {"data": data})
