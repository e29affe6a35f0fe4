"""A consistent snapshot of a traffic folder, also while segments become Parquet.

    segments/*.jsonl                  JSON lines, appended to
    TABLE/2026-11-26/NAME.parquet     rows of one day (UTC), groups of rows in order of time
    jobs/NAME.json                    a replacement that was decided: its inputs count no more, its outputs do
    aside/NAME                        outputs before their job is decided (rubbish after a kill), or being moved
    gone/NAME                         inputs that were replaced: kept a while for those who began to read before
    broken.jsonl                      lines that nobody could read

A replacement is decided by the one rename that puts its job there; whoever finds a job finishes it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import NamedTuple

from luthier.core.files import sync, write_atomically
from luthier.traces.segment import TABLES, Table, list_segments

GRACE_S = 900.0
"""So long replaced files stay for readers that were on their way."""


class FolderSnapshot(NamedTuple):
    """Every file that counts."""

    segments: list[Path]
    days: dict[Table, dict[date, list[Path]]]


class ReplacementFile(NamedTuple):
    """A file that a replacement makes: where it waits, and where it goes."""

    aside: Path
    final: Path


def read_folder_snapshot(folder: Path) -> FolderSnapshot:
    """Read a consistent list of a traffic folder's valid files."""
    snapshot = _look(folder)
    while (again := _look(folder)) != snapshot:
        snapshot = again
    return snapshot


def _look(folder: Path) -> FolderSnapshot:
    found, days = list_segments(folder), {table: _days(folder, table) for table in TABLES}
    for job in sorted((folder / "jobs").glob("*.json")):
        with suppress(FileNotFoundError):
            outputs, inputs = _read_job(folder, job)
            gone = set(inputs)
            found = [path for path in found if path not in gone]
            for table, by_day in days.items():
                days[table] = {day: [path for path in paths if path not in gone] for day, paths in by_day.items()}
            for output in outputs:
                _count(days, output)
    return FolderSnapshot(found, days)


def _days(folder: Path, table: Table) -> dict[date, list[Path]]:
    found: dict[date, list[Path]] = {}
    for path in sorted((folder / table).glob("*/*.parquet")):
        with suppress(ValueError):
            found.setdefault(date.fromisoformat(path.parent.name), []).append(path)
    return dict(sorted(found.items()))


def _count(days: dict[Table, dict[date, list[Path]]], output: ReplacementFile) -> None:
    """An output of a decided job counts where it waits, until it lies where it goes."""
    final = output.final
    table = next(table for table in TABLES if table == final.parent.parent.name)
    paths = days[table].setdefault(date.fromisoformat(final.parent.name), [])
    if final not in paths:
        paths.append(output.aside)


def current_location_of(folder: Path, path: Path) -> Path:
    """Return where a file of a folder snapshot is now, after it was moved or replaced."""
    if path.exists():
        return path
    if path.parent.name == "aside":
        table, day, name = path.name.split("~")
        return folder / table / day / name
    return folder / "gone" / _flat(folder, path)


def list_replaced_files(folder: Path, part: str) -> list[Path]:
    """Files of a part of the folder that were replaced, and are kept a while."""
    return sorted((folder / "gone").glob(f"{part}~*"))


def stage_replacement(folder: Path, final: Path) -> ReplacementFile:
    """Where a file waits before its job is decided."""
    return ReplacementFile(folder / "aside" / _flat(folder, final), final)


def _flat(folder: Path, path: Path) -> str:
    return "~".join(path.relative_to(folder).parts)


def replace_files(folder: Path, name: str, inputs: Sequence[Path], outputs: Sequence[ReplacementFile]) -> None:
    """Replace input files by staged output files atomically."""
    for output in outputs:
        sync(output.aside)
    job_json = {
        "outputs": [_flat(folder, output.final) for output in outputs],
        "inputs": [str(path.relative_to(folder)) for path in inputs],
    }
    job = folder / "jobs" / f"{name}.json"
    write_atomically(job, json.dumps(job_json).encode())
    _finish(folder, job)


def recover_replacements(folder: Path) -> None:
    """Finish replacements that were committed before a crash, and remove those that were not."""
    for job in sorted((folder / "jobs").glob("*.json")):
        _finish(folder, job)
    for path in (folder / "aside").glob("*"):
        path.unlink(missing_ok=True)
    for path in (folder / "gone").glob("*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > GRACE_S:
                path.unlink()


def _read_job(folder: Path, job: Path) -> tuple[list[ReplacementFile], list[Path]]:
    job_json = json.loads(job.read_bytes())
    outputs = [
        ReplacementFile(folder / "aside" / name, folder.joinpath(*name.split("~"))) for name in job_json["outputs"]
    ]
    return outputs, [folder / name for name in job_json["inputs"]]


def _finish(folder: Path, job: Path) -> None:
    outputs, inputs = _read_job(folder, job)
    for output in outputs:
        output.final.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            output.aside.replace(output.final)
    (folder / "gone").mkdir(parents=True, exist_ok=True)
    for path in inputs:
        with suppress(FileNotFoundError):
            os.utime(path)
            path.replace(folder / "gone" / _flat(folder, path))
    job.unlink()
