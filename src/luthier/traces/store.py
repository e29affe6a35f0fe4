"""Read traces and feedback in order of time, and counts of five minutes.

Reads use bounded memory and only the rows and columns that the caller asks for, from Parquet segments. The module loads
polars: import it inside functions.

A row of counts holds the number of values of one measure in one bucket. Buckets of times differ by 10 % (quantiles are
accurate to 5 %), each status has its own, and of tokens only the sum is stored. Rows are added up when segments are
merged, so a busy day takes no more space than a quiet one, and a dashboard of a week reads no single trace.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
import pyarrow as pa
from pyarrow.parquet import ParquetFile

from luthier.core.errors import InputError, SourceLocation
from luthier.traces.compact import day_of
from luthier.traces.folder import current_location_of, read_folder_snapshot
from luthier.traces.record import ROLES, Feedback, FeedbackRole, Trace, list_decisive
from luthier.traces.segment import SegmentLine, Table, is_open_for_writing, read_lines, refuse_former_columns
from luthier.traces.tables import SCHEMAS, records_to_table, rows_to_feedback, rows_to_traces

if TYPE_CHECKING:
    from luthier.traces.filter import TraceFilter

_PIECE = 256
"""Rows that become records at once."""


class TraceWithFeedback(NamedTuple):
    """A request with all that people said of its answer, the last of each person."""

    trace: Trace
    feedback: tuple[Feedback, ...]


class _Group(NamedTuple):
    """Some rows in order of time, and how they are read."""

    begin: datetime
    read: Callable[[Sequence[str] | None], pa.Table]


def read_traces(folder: Path, since: datetime | None = None, until: datetime | None = None) -> Iterator[Trace]:
    """Every request from `since` on and before `until`, in order of time."""
    for rows in _pieces(folder, "traces", since, until):
        yield from rows_to_traces(rows)


def read_feedback(folder: Path, since: datetime | None = None, until: datetime | None = None) -> Iterator[Feedback]:
    """All feedback in order of time."""
    for rows in _pieces(folder, "feedback", since, until):
        yield from rows_to_feedback(rows)


def read_latest_feedback(
    folder: Path,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    roles: Collection[FeedbackRole] = ROLES,
) -> dict[str, tuple[Feedback, ...]]:
    """What counts of all feedback of some roles, by request: what each person said last, field by field."""
    found: dict[str, dict[str, Feedback]] = {}
    for feedback in read_feedback(folder, since, until):
        if feedback.role not in roles:
            continue
        people = found.setdefault(feedback.trace, {})
        people[feedback.by] = _after(people.get(feedback.by), feedback)
    return {trace: tuple(people.values()) for trace, people in found.items()}


def _after(before: Feedback | None, last: Feedback) -> Feedback:
    """What a person says last counts, and what they said earlier of what they do not speak of now."""
    if before is None:
        return last
    return before.model_copy(update={name: getattr(last, name) for name in last.model_fields_set})


def read_traces_with_feedback(
    folder: Path,
    since: datetime | None = None,
    until: datetime | None = None,
    where: TraceFilter | None = None,
    *,
    feedback_until: datetime | None = None,
) -> Iterator[TraceWithFeedback]:
    """Requests with what was said of them (before `feedback_until`), in order of time; only those that a condition
    means."""
    about = read_latest_feedback(folder, since, feedback_until)
    opinions = feedback_to_frame(about)
    for rows in _pieces(folder, "traces", since, until, where.expression(opinions) if where else None):
        for trace in rows_to_traces(rows):
            yield TraceWithFeedback(trace, about.get(trace.id, ()))


def feedback_to_frame(about: dict[str, tuple[Feedback, ...]]) -> pl.DataFrame:
    """Feedback as one row a request, of those whose word counts most: the mean rating, the failure types, and the last
    label, correction and comment."""
    rows = [_summed(trace, every) for trace, every in about.items()]
    columns: list[tuple[str, Any]] = [("id", pl.String), ("rating", pl.Float64), ("types", pl.List(pl.String))]
    return pl.DataFrame(rows, schema=[*columns, *((name, pl.String) for name in _WORDS)], orient="row")


_WORDS = ("label", "correction", "comment")


def _summed(trace: str, every: Sequence[Feedback]) -> tuple[Any, ...]:
    ratings = list_decisive(every, "rating")
    mean = sum(ratings) / len(ratings) if ratings else None
    types = sorted({kind for types in list_decisive(every, "types") for kind in types})
    last = ((list_decisive(every, name) or [None])[-1] for name in _WORDS)
    return (trace, mean, types, *last)


def read_trace_by_id(folder: Path, id: str) -> TraceWithFeedback:
    """One request by its id, looked for from the latest day back; `InputError` when it is not kept."""
    for begin, end in list_days(folder):
        for rows in _pieces(folder, "traces", begin, end, pl.col("id") == id):
            for trace in rows_to_traces(rows):
                return TraceWithFeedback(trace, read_latest_feedback(folder, trace.timestamp).get(id, ()))
    raise InputError(
        f"no trace {id!r} is kept", where=SourceLocation(file=str(folder)), hint="`luthier traces list` shows some"
    )


def list_days(
    folder: Path, since: datetime | None = None, until: datetime | None = None
) -> list[tuple[datetime, datetime]]:
    """Days that hold requests, the last first, each cut to what is asked for."""
    snapshot = read_folder_snapshot(folder)
    days = set(snapshot.days["traces"])
    for path in snapshot.segments:
        days |= {at.date() for at in _of_segment(folder, path, "traces").column("timestamp").to_pylist()}
    found = []
    for day in sorted(days, reverse=True):
        begin = datetime.combine(day, time.min, UTC)
        end = begin + timedelta(days=1)
        begin, end = max(begin, since or begin), min(end, until or end)
        if begin < end:
            found.append((begin, end))
    return found


def read_latest_traces(
    folder: Path,
    count: int,
    since: datetime | None = None,
    until: datetime | None = None,
    where: TraceFilter | None = None,
) -> list[TraceWithFeedback]:
    """At most so many requests that a condition means, the latest last; found day by day, backwards."""
    found: deque[TraceWithFeedback] = deque()
    for begin, end in list_days(folder, since, until):
        room = count - len(found)
        if room <= 0:
            break
        found.extendleft(reversed(deque(read_traces_with_feedback(folder, begin, end, where), maxlen=room)))
    return list(found)


def scan_table(folder: Path, name: Table, since: datetime | None = None, until: datetime | None = None) -> pl.LazyFrame:
    """A table as a lazy polars frame, for queries that polars pushes down into the files of the days asked for."""
    snapshot = read_folder_snapshot(folder)
    paths = [
        current_location_of(folder, path)
        for day, paths in snapshot.days[name].items()
        if _meets(day, since, until)
        for path in paths
    ]
    lines = [found for path in snapshot.segments if (found := _of_segment(folder, path, name)).num_rows]
    empty = pl.DataFrame(SCHEMAS[name].empty_table()).lazy()
    if paths:
        refuse_former_columns(pl.read_parquet_schema(paths[0]), paths[0])
    columns = empty.collect_schema()
    parts = [pl.scan_parquet(paths, schema=columns, missing_columns="insert")] if paths else []
    parts += [pl.DataFrame(line).lazy() for line in lines]
    whole = pl.concat([empty, *parts]) if parts else empty
    return whole.filter(*_between(since, until))


def _between(since: datetime | None, until: datetime | None) -> list[pl.Expr]:
    exprs = [pl.col("timestamp") >= pl.lit(since.astimezone(UTC))] if since else []
    return [*exprs, pl.col("timestamp") < pl.lit(until.astimezone(UTC))] if until else exprs


def _meets(day: date, since: datetime | None, until: datetime | None) -> bool:
    return (since is None or day >= since.astimezone(UTC).date()) and (
        until is None or day <= until.astimezone(UTC).date()
    )


def _pieces(
    folder: Path, name: Table, since: datetime | None, until: datetime | None, condition: pl.Expr | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Rows in order of time, some at once; a group is opened when its time comes, and closed when it is over."""
    conditions = [*_between(since, until), *([] if condition is None else [condition])]
    groups = sorted(_groups(folder, name, since, until), key=lambda group: group.begin)
    running: list[tuple[datetime, int, Iterator[dict[str, Any]], dict[str, Any]]] = []
    waiting, index, made = 0, 0, list[dict[str, Any]]()
    while running or waiting < len(groups):
        if waiting < len(groups) and (not running or groups[waiting].begin <= running[0][0]):
            rows = _rows(groups[waiting], conditions)
            waiting, index = waiting + 1, index + 1
            number = index
        else:
            _, number, rows, row = heapq.heappop(running)
            made.append(row)
            if len(made) == _PIECE:
                yield made
                made = []
        if (following := next(rows, None)) is not None:
            heapq.heappush(running, (following["timestamp"], number, rows, following))
    yield made


def _rows(group: _Group, conditions: Sequence[pl.Expr]) -> Iterator[dict[str, Any]]:
    """The rows of a group that meet the conditions; the columns that these ask for are read first."""
    if conditions:
        columns = sorted({name for condition in conditions for name in condition.meta.root_names()})
        looked = pl.DataFrame(group.read(columns)).with_row_index("place")
        indices = looked.filter(*conditions)["place"].to_numpy()
        if len(indices) == 0:
            return
        found = group.read(None).take(indices)
    else:
        found = group.read(None)
    for batch in found.to_batches(max_chunksize=_PIECE):
        yield from batch.to_pylist()


def _groups(folder: Path, name: Table, since: datetime | None, until: datetime | None) -> Iterator[_Group]:
    snapshot = read_folder_snapshot(folder)
    for path in snapshot.segments:
        rows = _of_segment(folder, path, name)
        if rows.num_rows:
            yield _Group(rows.column("timestamp")[0].as_py(), _from_memory(rows))
    for day, paths in snapshot.days[name].items():
        if _meets(day, since, until):
            for path in paths:
                yield from _of_file(folder, path, since, until)


def _of_file(folder: Path, path: Path, since: datetime | None, until: datetime | None) -> Iterator[_Group]:
    """The groups of a file that may hold rows of a time; none when the file was too old and is gone."""
    try:
        with ParquetFile(current_location_of(folder, path)) as file:
            metadata, column = file.metadata, file.schema_arrow.get_field_index("timestamp")
            refuse_former_columns(file.schema_arrow.names, path)
            spans = [
                metadata.row_group(row_index).column(column).statistics for row_index in range(metadata.num_row_groups)
            ]
    except FileNotFoundError:
        return
    for index, span in enumerate(spans):
        if (since is None or span.max >= since) and (until is None or span.min < until):
            yield _Group(span.min, _from_file(folder, path, index))


def _from_memory(rows: pa.Table) -> Callable[[Sequence[str] | None], pa.Table]:
    return lambda columns: rows.select(columns) if columns else rows


def _from_file(folder: Path, path: Path, index: int) -> Callable[[Sequence[str] | None], pa.Table]:
    def read_group(columns: Sequence[str] | None) -> pa.Table:
        with ParquetFile(current_location_of(folder, path)) as file:
            return file.read_row_group(index, columns=list(columns) if columns else None)

    return read_group


def _of_segment(folder: Path, path: Path, name: Table) -> pa.Table:
    """What a segment holds of a table; lines that cannot be read are kept apart when it becomes Parquet."""
    is_over = not is_open_for_writing(path)
    try:
        data = current_location_of(folder, path).read_bytes()
    except FileNotFoundError:
        return SCHEMAS[name].empty_table()
    segment_lines = [line for line in read_lines(data, is_over=is_over) if isinstance(line, SegmentLine)]
    if segment_lines:
        refuse_former_columns(segment_lines[0].record.keys(), path)
    if name == "rollup":
        records = _records(segment_lines, "traces")
        return compute_rollup(
            records_to_table(
                "traces", ({entry: record[entry] for entry in READS & record.keys()} for record in records)
            )
        )
    return records_to_table(name, _records(segment_lines, name))


def _records(lines: Iterable[SegmentLine], name: Table) -> Iterator[dict[str, Any]]:
    return (line.record for line in lines if line.table == name and day_of(line.record))


EVERY = "5m"
_STEP = math.log(1.1)
TIMES = ("latency_s", "first_token_s")
_SUMS = ("prompt_tokens", "cached_tokens", "completion_tokens")
_BY = ("timestamp", "model", "release", "variant")
READS = frozenset((*_BY, "status", *TIMES, *_SUMS))
"""The columns of requests that are counted."""


def compute_rollup(traces: pa.Table) -> pa.Table:
    """Aggregate traces into counts by time, model, status and latency bucket."""
    rows = pl.DataFrame(traces).lazy().with_columns(pl.col("timestamp").dt.truncate(EVERY))
    parts = [_counted(rows, "status", pl.col("status"))]
    for name in TIMES:
        lazy_frame = rows.filter(pl.col(name).is_not_null())
        parts.append(_counted(lazy_frame, name, (pl.col(name).clip(1e-6).log() / _STEP).floor()))
    parts += [_counted(rows, name, pl.lit(0)) for name in _SUMS]
    return pl.concat(parts).sort("timestamp").collect().to_arrow().cast(SCHEMAS["rollup"])


def sum_rollups(parts: Iterable[pa.Table]) -> pa.Table:
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


def read_dashboard_series(
    folder: Path,
    since: datetime | None = None,
    until: datetime | None = None,
    every: str = "1h",
    by: Sequence[str] = _BY[1:],
) -> pl.DataFrame:
    """Read time series of requests, errors, tokens and latency quantiles, by interval and by other columns: alias,
    release and variant unless `by` names fewer of them."""

    keys = ("timestamp", *by)
    rows = scan_table(folder, "rollup", since, until).with_columns(pl.col("timestamp").dt.truncate(every))
    added = rows.group_by(*keys, "measure", "bucket").agg(pl.col("count", "sum").sum()).collect()
    shown = (
        _of(added, "status")
        .group_by(*keys)
        .agg(
            pl.col("count").sum().alias("requests"),
            pl.col("count").filter(pl.col("bucket") >= 400).sum().alias("errors"),
        )
    )
    for name in _SUMS:
        shown = shown.join(_of(added, name).group_by(*keys).agg(pl.col("sum").sum().alias(name)), on=keys, how="left")
    for name in TIMES:
        shown = shown.join(_quantiles(_of(added, name), name, keys), on=keys, how="left")
    return shown.sort(keys)


def _of(added: pl.DataFrame, measure: str) -> pl.DataFrame:
    return added.filter(pl.col("measure") == measure)


def _quantiles(rows: pl.DataFrame, name: str, keys: Sequence[str]) -> pl.DataFrame:
    """The middle of the bucket in which each share of the values ends."""
    below = pl.col("count").cum_sum() / pl.col("count").sum()
    middle = ((pl.col("bucket") + 0.5) * _STEP).exp()
    expressions = [
        middle.filter(below >= share).first().alias(f"{name}.p{round(100 * share)}") for share in (0.5, 0.95, 0.99)
    ]
    return rows.sort("bucket").group_by(*keys).agg(*expressions)
