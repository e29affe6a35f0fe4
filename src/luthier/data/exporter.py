"""A form in which a data set goes out to other tools; the form writes files, `export` sees that they appear whole."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from luthier.artifacts.dataset import DatasetSummary, list_splits, read_split_columns
from luthier.artifacts.media import MediaReader
from luthier.chat.messages import MEDIA_MARK, format_media_parts
from luthier.core.artifact import Artifact
from luthier.core.component import Component

ExportRow = dict[str, Any]
"""`{"id", "origin": {"source", "file", "line"}, "kind", "messages", "label", "meta"}`, and `tools` where there are."""
Say = Callable[[str], None]
MediaForm = Literal["marks", "parts", "own"]


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

    @cached_property
    def holds_media(self) -> bool:
        """Whether some row shows a picture or plays a sound."""
        return any('"media"' in row["messages"] for split in self.splits for row in self._rows(split, "messages"))

    def read_media(self, digest: str) -> bytes:
        """The bytes of a picture or a sound."""
        return self._reader.read(digest)

    @cached_property
    def _reader(self) -> MediaReader:
        return MediaReader(self.artifact)

    def _rows(self, split: str, *names: str) -> Iterator[dict[str, Any]]:
        return read_split_columns(self.artifact, split, *names)

    def lines(self, split: str, media: MediaForm = "marks") -> Iterator[ExportRow]:
        """A split's rows in source order, in bounded memory.

        Pictures and sounds go as marks such as `<image>` in the text (`marks`), as parts of content with the bytes in
        base64 (`parts`), or as the data set has them (`own`).
        """
        for line in self._lines(split):
            if media != "own" and any("media" in turn for turn in line["messages"]):
                line["messages"] = [self._shown(turn, media) for turn in line["messages"]]
            yield line

    def _shown(self, turn: dict[str, Any], form: MediaForm) -> dict[str, Any]:
        if "media" not in turn:
            return turn
        rest = {name: value for name, value in turn.items() if name != "media"}
        if form == "parts":
            media = [(one["kind"], one["format"], one["digest"]) for one in turn["media"]]
            return {**rest, "content": format_media_parts(turn["content"], media, self.read_media)}
        marks = iter(one["kind"] for one in turn["media"])
        return {
            **rest,
            "content": "".join(f"<{next(marks)}>" if sign == MEDIA_MARK else sign for sign in turn["content"]),
        }

    def _lines(self, split: str) -> Iterator[ExportRow]:
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

    carries_media: ClassVar[bool] = False
    """Whether pictures and sounds go out with the rows; else the text has marks in their place, and that is said."""
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
