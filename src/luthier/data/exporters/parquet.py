"""Parquet tables with typed messages."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from luthier.data.delivery.nested import batches, schema
from luthier.data.engine.tables import TableWriter
from luthier.data.exporter import Exporter, Outgoing, Say


class ParquetOut(Exporter):
    """One Parquet file a split; messages are a list of structs, `meta`, `tools` and arguments of calls JSON text."""

    kind: Literal["parquet"] = "parquet"

    def write(self, data: Outgoing, folder: Path, say: Say) -> None:
        """Write `SPLIT.parquet`."""
        for split in data.splits:
            writer = TableWriter(folder / f"{split}.parquet", schema())
            for batch in batches(data.lines(split)):
                writer.write(batch)
            writer.close()
