"""Parquet tables with typed messages."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from luthier.data.delivery.nested import nested_export_schema, to_nested_batches
from luthier.data.engine.tables import TableWriter
from luthier.data.exporter import ExportDataset, Exporter, Say


class ParquetExporter(Exporter):
    """One Parquet file a split; messages are a list of structs, `meta`, `tools` and arguments of calls JSON text.

    Rows with pictures or sounds have them in the columns `images` and `audios` (`{bytes, path}`), in the order of the
    marks `<image>` and `<audio>` in the messages.
    """

    kind: Literal["parquet"] = "parquet"
    carries_media: ClassVar[bool] = True

    def write(self, data: ExportDataset, folder: Path, say: Say) -> None:
        """Write `SPLIT.parquet`."""
        for split in data.splits:
            writer = TableWriter(folder / f"{split}.parquet", nested_export_schema(media=data.holds_media))
            for batch in to_nested_batches(data, split):
                writer.write(batch)
            writer.close()
