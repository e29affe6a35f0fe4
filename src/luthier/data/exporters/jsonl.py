"""JSON lines: the form that loses nothing and that everything reads."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from luthier.data.exporter import ExportDataset, Exporter, Say, write_lines


class JsonlExporter(Exporter):
    """One file a split, one row a line, with `id`, `origin`, `kind`, `messages`, `label` and `meta`.

    Pictures and sounds stand in the messages as OpenAI's API takes them, with their bytes in base64.
    """

    kind: Literal["jsonl"] = "jsonl"
    carries_media: ClassVar[bool] = True

    def write(self, data: ExportDataset, folder: Path, say: Say) -> None:
        """Write `SPLIT.jsonl`."""
        for split in data.splits:
            write_lines(folder / f"{split}.jsonl", data.lines(split, "parts"))
