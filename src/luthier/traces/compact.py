"""Segments become Parquet by day, small files of a day become one, and days that are too old go."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock, Timeout

from luthier.core.errors import LuthierError
from luthier.core.files import translate_write_errors
from luthier.traces.folder import (
    ReplacementFile,
    read_folder_snapshot,
    recover_replacements,
    replace_files,
    stage_replacement,
)
from luthier.traces.media import list_trace_media
from luthier.traces.retention import RetentionPolicy
from luthier.traces.segment import TABLES, SegmentLine, Table, has_former_columns, is_open_for_writing, read_lines

if TYPE_CHECKING:
    import pyarrow as pa

_ORPHAN_S = 60.0
"""A segment that nobody holds may be about to be held so long: it is opened, then locked."""
_ROWS = 5000
"""Rows of one group: what a reader holds at once."""
_SMALL_BYTES = 64 << 20
_COUNTS_STAY = timedelta(days=400)
"""Counts are small, and stay when the requests are gone."""
_MANY = 16
"""So many small files of a day become one while it lasts; afterwards, two are enough."""


class CompactionStats(NamedTuple):
    """What was done."""

    segments: int = 0
    rows: int = 0
    broken: int = 0
    """Lines that cannot be read; they are kept in `broken.jsonl`."""
    removed: int = 0
    """Files that were too old, or too many."""


def compact_traffic_folder(
    folder: Path, keeping: RetentionPolicy, *, closed: Sequence[Path] = (), now: datetime | None = None
) -> CompactionStats:
    """Compact a traffic folder: write finished segments to Parquet files and apply retention, unless another process
    does. `closed` are segments that are certainly done."""
    with translate_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "compact.lock", timeout=0):
            recover_replacements(folder)
            stats = _segments(folder, _ready(folder, closed))
            merge_small_day_files(folder, (now or datetime.now(UTC)).date())
            return stats._replace(removed=_retain(folder, keeping, (now or datetime.now(UTC)).date()))
    except Timeout:
        return CompactionStats()


def _ready(folder: Path, closed: Sequence[Path]) -> list[Path]:
    """Segments whose writer is done with them, or dead for a while."""
    found = []
    for path in read_folder_snapshot(folder).segments:
        if path in closed or (not is_open_for_writing(path) and _age_s(path) > _ORPHAN_S):
            found.append(path)
    return found


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _segments(folder: Path, paths: Iterable[Path]) -> CompactionStats:
    total = CompactionStats()
    for path in paths:
        name = f"{path.stem}-{secrets.token_hex(4)}"
        rows: dict[tuple[Table, date], list[dict[str, Any]]] = defaultdict(list)
        broken: list[bytes] = []
        lines = list(read_lines(path.read_bytes(), is_over=True))
        if any(isinstance(line, SegmentLine) and has_former_columns(line.record.keys()) for line in lines):
            continue  # it stays as it is, and whoever reads it learns why
        for line in lines:
            if isinstance(line, SegmentLine) and (day := day_of(line.record)):
                rows[line.table, day].append(line.record)
            else:
                broken.append(line if isinstance(line, bytes) else repr(line.record).encode())
        outputs = [file for (table, day), found in rows.items() for file in _written(folder, table, day, name, found)]
        _keep_broken(folder, broken)
        replace_files(folder, name, [path], outputs)
        total = total._replace(
            segments=total.segments + 1,
            rows=total.rows + sum(map(len, rows.values())),
            broken=total.broken + len(broken),
        )
    return total


def day_of(record: dict[str, Any]) -> date | None:
    """The day (UTC) that a record belongs to; None when it has no moment."""
    try:
        return datetime.fromisoformat(record["timestamp"]).astimezone(UTC).date()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _keep_broken(folder: Path, lines: Sequence[bytes]) -> None:
    if lines:
        with (folder / "broken.jsonl").open("ab") as file:
            file.writelines(line + b"\n" for line in lines)


def _written(
    folder: Path, table: Table, day: date, name: str, records: Sequence[dict[str, Any]]
) -> Iterator[ReplacementFile]:
    """A file of records, and of requests their counts."""
    from luthier.traces.store import compute_rollup
    from luthier.traces.tables import records_to_table as made

    rows = made(table, records)
    tables: list[tuple[Table, pa.Table]] = [(table, rows)]
    for entry, content in [*tables, ("rollup", compute_rollup(rows))] if table == "traces" else tables:
        output = stage_replacement(folder, folder / entry / day.isoformat() / f"{name}.parquet")
        write_row_groups(output.aside, entry, [content])
        yield output


def write_row_groups(path: Path, table: Table, groups: Iterable[pa.Table]) -> None:
    """Write groups of rows to a file, those that are small together with the next."""
    from pyarrow.parquet import ParquetWriter

    from luthier.traces.tables import SCHEMAS

    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with ParquetWriter(path, SCHEMAS[table], compression="zstd") as file:
            waiting: list[pa.Table] = []
            for group in groups:
                waiting.append(group)
                if sum(entry.num_rows for entry in waiting) >= _ROWS:
                    file.write_table(_together(waiting), row_group_size=_ROWS)
                    waiting = []
            if waiting:
                file.write_table(_together(waiting), row_group_size=_ROWS)


def _together(groups: Sequence[pa.Table]) -> pa.Table:
    import pyarrow as pa

    return groups[0] if len(groups) == 1 else pa.concat_tables(groups).sort_by("timestamp")


def merge_small_day_files(folder: Path, today: date) -> None:
    """Make one file of a day's small ones: of two, once the day is over; of many while it lasts."""
    for table, days in read_folder_snapshot(folder).days.items():
        for day, paths in days.items():
            small = [path for path in paths if path.stat().st_size < _SMALL_BYTES]
            if len(small) >= (2 if day < today else _MANY):
                name = f"merged-{time.time_ns():020}-{secrets.token_hex(4)}"
                output = stage_replacement(folder, folder / table / day.isoformat() / f"{name}.parquet")
                write_row_groups(output.aside, table, _together_of(table, small))
                replace_files(folder, name, small, [output])


def _together_of(table: Table, paths: Sequence[Path]) -> Iterable[pa.Table]:
    """What some files of a table hold: requests one group after another, counts added up."""
    from luthier.traces.store import sum_rollups
    from luthier.traces.tables import add_missing_columns

    if table != "rollup":
        return (add_missing_columns(table, group) for group in _groups(paths))
    return [sum_rollups(_groups(paths))]


def _groups(paths: Sequence[Path]) -> Iterator[pa.Table]:
    """Every group of rows of some files, in order of the files."""
    from pyarrow.parquet import ParquetFile

    for path in paths:
        with ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)


def _retain(folder: Path, keeping: RetentionPolicy, today: date) -> int:
    """Remove what is too old, then the oldest while there is too much; returns how many files went."""
    days = read_folder_snapshot(folder).days
    for path in [path for day, paths in days["rollup"].items() if day < today - _COUNTS_STAY for path in paths]:
        path.unlink(missing_ok=True)
    kept = (days[table] for table in TABLES if table != "rollup")
    found = sorted((day, path) for by_day in kept for day, paths in by_day.items() for path in paths)
    found += [(_came(path), path) for path in list_trace_media(folder, unfinished=True)]
    sizes = {path: path.stat().st_size for _, path in found}
    total, removed = sum(sizes.values()), 0
    found.sort(key=lambda entry: max(entry[0], _came(entry[1])))
    oldest = today - timedelta(days=keeping.days - 1)
    for day, path in found:
        if max(day, _came(path)) >= oldest and total <= keeping.most_bytes:
            break
        path.unlink(missing_ok=True)
        total -= sizes[path]
        removed += 1
        if not any(path.parent.iterdir()):
            shutil.rmtree(path.parent, ignore_errors=True)
    return removed


def _came(path: Path) -> date:
    """When a file came: a log of last year that was taken in today stays as long as today's requests."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).date()


def main(arguments: Sequence[str]) -> None:
    """`FOLDER KEEPING SEGMENT…`: compact once, beside whoever records; what the machine refuses is said."""
    folder, keeping, *closed = arguments
    if hasattr(os, "SCHED_BATCH"):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        compact_traffic_folder(Path(folder), RetentionPolicy.model_validate_json(keeping), closed=[*map(Path, closed)])
    except LuthierError as error:
        sys.exit(f"traffic: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
