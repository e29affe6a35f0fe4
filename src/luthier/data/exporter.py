"""A form in which a data set goes out to other tools; the form writes files, `export` sees that they appear whole."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from luthier.artifacts.dataset import DatasetSummary, list_splits, read_split_columns
from luthier.core.artifact import Artifact
from luthier.core.component import Component

ExportRow = dict[str, Any]
"""`{"id", "origin": {"source", "file", "line"}, "kind", "messages", "label", "meta"}`, and `tools` where there are."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class ExportDataset:
    """A data set on its way out, read row by row."""

    artifact: Artifact

    @property
    def splits(self) -> list[str]:
        """The splits that have rows."""
        return list_splits(self.artifact)

    @property
    def labels(self) -> list[str]:
        """The classes, when answers are classes; of rows without a label, those that they may have."""
        dataset_summary = DatasetSummary.read(self.artifact)
        return dataset_summary.labels or dataset_summary.choices

    def rows(self, split: str) -> int:
        """How many rows a split has."""
        return DatasetSummary.read(self.artifact).rows[split]

    def lines(self, split: str) -> Iterator[ExportRow]:
        """A split's rows in source order, in bounded memory."""
        for row in read_split_columns(self.artifact, split):
            line = {
                "id": row["id"],
                "origin": {key: row[key] for key in ("source", "file", "line")},
                "kind": row["kind"],
                "messages": json.loads(row["messages"]),
                "label": row["label"],
                "meta": json.loads(row["meta"]),
            }
            yield {**line, "tools": json.loads(row["tools"])} if row["tools"] != "[]" else line


class Exporter(Component):
    """A form in which a data set goes out to other tools: `luthier export RECIPE:STEP --to DIR --format KIND`.

    Where the form can hold them, every row keeps its `id`, `origin` and `meta`; where it cannot, that is said.
    """

    role: ClassVar[str] = "exporter"
    home: ClassVar[str] = "luthier.data.exporters"

    @abstractmethod
    def write(self, data: ExportDataset, folder: Path, say: Say) -> None:
        """Write files below an empty folder; `say` tells the user what the form cannot hold."""


def join_turn_texts(turns: Iterable[ExportRow]) -> str:
    """The texts of some turns for a reader; one that only calls tools has none."""
    return "\n\n".join(text for turn in turns if (text := turn.get("content", "")))


def write_lines(path: Path, lines: Iterable[Any]) -> None:
    """JSON lines in UTF-8."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_array(path: Path, items: Iterable[Any]) -> None:
    """One JSON array, an item a line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[")
        for number, item in enumerate(items):
            file.write(("\n" if number == 0 else ",\n") + json.dumps(item, ensure_ascii=False))
        file.write("\n]\n")
