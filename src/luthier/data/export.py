"""A data set out again: one file a split, one row a line, with its origin and every column that was not mapped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact
from luthier.core.digest import file_digest
from luthier.core.errors import DataError, UnknownName, Where, did_you_mean
from luthier.core.files import writing
from luthier.text.dataset import frame, splits

FORMATS = ("jsonl",)


def export(artifact: Artifact, to: Path, format: str = "jsonl") -> list[Path]:
    """Write `SPLIT.jsonl` for each split below `to`, whole or not at all; a file that differs is never overwritten.

    Each line is `{"id", "origin": {"source", "file", "line"}, "kind", "messages", "label", "meta"}`, and `tools` where
    there are any.
    """
    if format not in FORMATS:
        raise UnknownName(f"a data set cannot be exported as {format!r}", remedy=did_you_mean(format, FORMATS))
    with writing(to):
        to.mkdir(parents=True, exist_ok=True)
    asides = {to / f"{split}.jsonl": _written_aside(artifact, split, to) for split in splits(artifact)}
    try:
        for target, aside in asides.items():
            _refuse_foreign(target, aside)
        for target, aside in asides.items():
            with writing(target):
                aside.replace(target)
    finally:
        for aside in asides.values():
            aside.unlink(missing_ok=True)
    return list(asides)


def _written_aside(artifact: Artifact, split: str, to: Path) -> Path:
    aside = to / f".{split}.jsonl.{os.getpid()}.tmp"
    with writing(aside), aside.open("w", encoding="utf-8", newline="\n") as file:
        for line in _lines(artifact, split):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return aside


def _refuse_foreign(target: Path, aside: Path) -> None:
    """What is there already may stay only when it is the same."""
    if target.exists() and file_digest(target) != file_digest(aside):
        remedy = "give another folder, or remove the file"
        raise DataError(
            "is there already and differs from what would be written", where=Where(file=str(target)), remedy=remedy
        )


def _lines(artifact: Artifact, split: str) -> Iterator[dict[str, Any]]:
    for row in frame(artifact, split).iter_rows(named=True):
        line = {
            "id": row["id"],
            "origin": {key: row[key] for key in ("source", "file", "line")},
            "kind": row["kind"],
            "messages": json.loads(row["messages"]),
            "label": row["label"],
            "meta": json.loads(row["meta"]),
        }
        yield {**line, "tools": json.loads(row["tools"])} if row["tools"] != "[]" else line
