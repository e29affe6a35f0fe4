"""Traffic in short: counts by five minutes, from which a week is shown without reading a single request again.

A row counts the values of one measure that fall into one bucket: of times, buckets are a tenth apart (quantiles are
known to 5 %); of statuses, each its own; of tokens, only the sum is kept. Rows add up, and are added up where files
become one, so that a busy day takes no more room than a quiet one. Only ever imported inside a verb.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from luthier.traffic.tables import SCHEMAS

if TYPE_CHECKING:
    import pyarrow as pa

EVERY = "5m"
_STEP = math.log(1.1)
TIMES = ("latency_s", "first_token_s")
_SUMS = ("prompt_tokens", "cached_tokens", "completion_tokens")
_BY = ("at", "model", "release", "arm")
READS = frozenset((*_BY, "status", *TIMES, *_SUMS))
"""The columns of requests that are counted."""


def rollup(traces: pa.Table) -> pa.Table:
    """The counts of some requests."""
    rows = pl.DataFrame(traces).lazy().with_columns(pl.col("at").dt.truncate(EVERY))
    parts = [_counted(rows, "status", pl.col("status"))]
    for name in TIMES:
        known = rows.filter(pl.col(name).is_not_null())
        parts.append(_counted(known, name, (pl.col(name).clip(1e-6).log() / _STEP).floor()))
    parts += [_counted(rows, name, pl.lit(0)) for name in _SUMS]
    return pl.concat(parts).sort("at").collect().to_arrow().cast(SCHEMAS["rollup"])


def added(parts: Iterable[pa.Table]) -> pa.Table:
    """Counts of the same put together: a day is no longer for the files that it came in."""
    rows = pl.concat([pl.DataFrame(part).lazy() for part in parts])
    whole = rows.group_by(*_BY, "measure", "bucket").agg(pl.col("count", "sum").sum()).sort(*_BY, "measure", "bucket")
    return whole.collect().to_arrow().cast(SCHEMAS["rollup"])


def _counted(rows: pl.LazyFrame, measure: str, bucket: pl.Expr) -> pl.LazyFrame:
    return (
        rows.group_by(*_BY, bucket.cast(pl.Int32).alias("bucket"))
        .agg(pl.len().cast(pl.Int64).alias("count"), pl.col(measure).sum().cast(pl.Float64).alias("sum"))
        .select(*_BY, pl.lit(measure).alias("measure"), "bucket", "count", "sum")
    )


def dashboard(
    folder: Path, since: datetime | None = None, until: datetime | None = None, every: str = "1h"
) -> pl.DataFrame:
    """Requests, errors, tokens and quantiles of times, by a stretch of time, name, release and arm."""
    from luthier.traffic.read import frame

    rows = frame(folder, "rollup", since, until).with_columns(pl.col("at").dt.truncate(every))
    added = rows.group_by(*_BY, "measure", "bucket").agg(pl.col("count", "sum").sum()).collect()
    shown = (
        _of(added, "status")
        .group_by(*_BY)
        .agg(
            pl.col("count").sum().alias("requests"),
            pl.col("count").filter(pl.col("bucket") >= 400).sum().alias("errors"),
        )
    )
    for name in _SUMS:
        shown = shown.join(_of(added, name).group_by(*_BY).agg(pl.col("sum").sum().alias(name)), on=_BY, how="left")
    for name in TIMES:
        shown = shown.join(_quantiles(_of(added, name), name), on=_BY, how="left")
    return shown.sort(_BY)


def _of(added: pl.DataFrame, measure: str) -> pl.DataFrame:
    return added.filter(pl.col("measure") == measure)


def _quantiles(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    """The middle of the bucket in which each share of the values ends."""
    below = pl.col("count").cum_sum() / pl.col("count").sum()
    middle = ((pl.col("bucket") + 0.5) * _STEP).exp()
    wanted = [
        middle.filter(below >= share).first().alias(f"{name}.p{round(100 * share)}") for share in (0.5, 0.95, 0.99)
    ]
    return rows.sort("bucket").group_by(*_BY).agg(*wanted)
