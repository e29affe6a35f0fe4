"""Parquet tables with typed messages."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from luthier.data.delivery.nested import nested_export_schema, to_nested_batches
from luthier.data.engine.tables import TableWriter
from luthier.data.exporter import ExportDataset, Exporter, Say


class ParquetExporter(Exporter):
    """One Parquet file a split; messages are a list of structs, `meta`, `tools` and arguments of calls JSON text."""

    kind: Literal["parquet"] = "parquet"

    def write(self, data: ExportDataset, folder: Path, say: Say) -> None:
        """Write `SPLIT.parquet`."""
        for split in data.splits:
            writer = TableWriter(folder / f"{split}.parquet", nested_export_schema())
            for batch in to_nested_batches(data.lines(split)):
                writer.write(batch)
            writer.close()
