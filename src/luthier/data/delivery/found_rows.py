"""The rows of a validation's findings as files that a person reads and a recipe takes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.artifacts.dataset import list_splits, read_split_columns
from luthier.artifacts.findings import FlaggedRow, read_findings, read_flagged_rows
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, SourceLocation
from luthier.core.files import write_atomically

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
