"""Export a dataset in one format, or the rows that a validation found, atomically."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.artifacts.dataset import list_splits, read_split_columns
from luthier.artifacts.findings import FlaggedRow, read_findings, read_flagged_rows
from luthier.core.artifact import Artifact
from luthier.core.component import components_by_kind
from luthier.core.errors import DataError, SourceLocation, UnknownName, did_you_mean
from luthier.core.files import translate_write_errors, write_atomically
from luthier.core.hashing import file_digest
from luthier.data.exporter import ExportDataset, Exporter, Say


def export_formats() -> tuple[str, ...]:
    """The kinds of forms, `jsonl` first: it is the one that is meant when none is named."""
    return tuple(sorted(components_by_kind(Exporter), key=lambda kind: (kind != "jsonl", kind)))


def export_dataset(
    artifact: Artifact, to: Path, form: str | Exporter = "jsonl", say: Say = lambda text: None
) -> list[Path]:
    """Write a data set below `to` in a form; a file that is there already and differs is never overwritten."""
    exporter = form if isinstance(form, Exporter) else _named(form)
    with translate_write_errors(to):
        to.mkdir(parents=True, exist_ok=True)
    aside = to / f".export.{os.getpid()}.tmp"
    try:
        with translate_write_errors(to):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            data = ExportDataset(artifact)
            exporter.write(data, aside, say)
            if data.holds_media and not exporter.carries_media:
                forms = ", ".join(kind for kind, one in components_by_kind(Exporter).items() if one.carries_media)
                say(f"pictures and sounds are left out, with marks in their place; these forms carry them: {forms}")
        names = sorted(path.relative_to(aside) for path in aside.rglob("*") if path.is_file())
        for name in names:
            _refuse_foreign(to / name, aside / name)
        for name in names:
            with translate_write_errors(to / name):
                (to / name).parent.mkdir(parents=True, exist_ok=True)
                (aside / name).replace(to / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return [to / name for name in names]


def _named(kind: str) -> Exporter:
    found = components_by_kind(Exporter).get(kind.replace("-", "_"))
    if found is None:
        raise UnknownName(f"a data set cannot be exported as {kind!r}", hint=did_you_mean(kind, export_formats()))
    return found.model_validate({})


def _refuse_foreign(target: Path, aside: Path) -> None:
    """What is there already may stay only when it is the same."""
    if target.exists() and file_digest(target) != file_digest(aside):
        hint = "give another folder, or remove the file"
        raise DataError(
            "is there already and differs from what would be written", where=SourceLocation(file=str(target)), hint=hint
        )


ROWS, SETTINGS = "findings.jsonl", "exclude_ids.yaml"


def write_finding_rows(artifact: Artifact, to: Path) -> list[Path]:
    """Write `findings.jsonl`, a line for each row of each finding with its text, and `exclude_ids.yaml`, operators that
    leave these rows out; files that are there already are not overwritten."""
    for path in (to / ROWS, to / SETTINGS):
        if path.exists():
            raise DataError("is there already", where=SourceLocation(file=str(path)), hint="give another folder")
    if "data" not in artifact.manifest.inputs:
        hint = "run `validate` where the rows are: it names the rows of each finding"
        raise DataError("these findings are of counts of several sites, and name no rows", hint=hint)
    marks = list(read_flagged_rows(artifact))
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in _lines(artifact, marks))
    write_atomically(to / ROWS, lines.encode())
    write_atomically(to / SETTINGS, _settings(artifact, marks).encode())
    return [to / ROWS, to / SETTINGS]


def _lines(artifact: Artifact, marks: list[FlaggedRow]) -> Iterator[dict[str, Any]]:
    severity = {finding.name: finding.severity for finding in read_findings(artifact).findings}
    data, row_ids = artifact.parent("data"), {mark.id for mark in marks}
    rows = {
        row["id"]: row for split in list_splits(data) for row in read_split_columns(data, split) if row["id"] in row_ids
    }
    for mark in marks:
        row = rows[mark.id]
        yield {
            **mark._asdict(),
            "severity": severity[mark.finding],
            "origin": {key: row[key] for key in ("source", "file", "line")},
            "label": row["label"],
            "messages": json.loads(row["messages"]),
        }


def _settings(artifact: Artifact, marks: list[FlaggedRow]) -> str:
    """Operators of `prepare` that leave out the rows of each finding."""
    ids: dict[str, list[str]] = defaultdict(list)
    for mark in marks:
        ids[mark.finding].append(mark.id)
    lines = ["# Rows that a validation names, by finding. Read them first, take out those you keep, and put what is"]
    lines += ["# left into `ops` of the step `prepare`."]
    for finding in read_findings(artifact).findings:
        if found := ids.get(finding.name):
            quoted = "\n".join(f'      - "{entry}"' for entry in found)
            lines += [f"# {finding.severity}: {' '.join(finding.sentence.split())}"]
            lines += [f"  - kind: exclude_ids\n    reason: {json.dumps(finding.title)}\n    ids:\n{quoted}"]
    return "\n".join(lines) + "\n"
