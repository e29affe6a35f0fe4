"""A folder that Hugging Face `datasets` loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from luthier.data.delivery.nested import nested_export_schema, to_nested_batches
from luthier.data.exporter import ExportDataset, Exporter, Say


class SaveToDiskExporter(Exporter):
    """A folder for `datasets.load_from_disk`, with a split of the data set as a split of the `DatasetDict`.

    The columns are those of the form `parquet`; pictures and sounds are features of the library's own kinds `Image`
    and `Audio`. Wants the extra `interop`.
    """

    kind: Literal["datasets"] = "datasets"
    carries_media: ClassVar[bool] = True
    libraries: ClassVar[Mapping[str, str]] = {"datasets": "interop"}

    def write(self, data: ExportDataset, folder: Path, say: Say) -> None:
        """Write what `DatasetDict.save_to_disk` writes; rows pass through the disk, not through memory."""
        self.check_installed(folder)
        import datasets
        import pyarrow as pa

        scratch = folder / ".rows"
        scratch.mkdir()
        found = {}
        for split in data.splits:
            path = scratch / f"{split}.arrow"
            schema = nested_export_schema(media=data.holds_media)
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
                for batch in to_nested_batches(data, split):
                    writer.write_batch(batch)
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            fingerprint = f"{data.artifact.digest[:24]}-{split}"
            features = datasets.Features.from_arrow_schema(schema)
            if data.holds_media:
                own = {"images": datasets.List(datasets.Image()), "audios": datasets.List(datasets.Audio())}
                features = datasets.Features({**features, **own})
            info = datasets.DatasetInfo(features=features)
            found[split] = datasets.Dataset(datasets.table.InMemoryTable(table), info=info, fingerprint=fingerprint)
        quiet = datasets.utils.logging.is_progress_bar_enabled()
        datasets.utils.logging.disable_progress_bar()
        try:
            datasets.DatasetDict(found).save_to_disk(folder)
        finally:
            if quiet:
                datasets.utils.logging.enable_progress_bar()
        del found, table
        for path in scratch.iterdir():
            path.unlink()
        scratch.rmdir()
