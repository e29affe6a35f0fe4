"""Exporters of Arrow data: Parquet files, and folders that Hugging Face datasets loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from luthier.data.engine.tables import TableWriter, dump_cell_json, dump_tools
from luthier.data.exporter import ExportDataset, Exporter, ExportRow, Say
from luthier.data.row import chunk_by_size, count_characters

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 1024
_TEXTS = ("role", "content", "thinking", "tool_call_id", "name", "tag")


def nested_export_schema(*, media: bool = False) -> pa.Schema:
    """Columns of a data set that goes out as Arrow or Parquet, with those of its media where it holds some."""
    import pyarrow as pa

    text = pa.string()
    call = pa.struct([("name", text), ("arguments", text), ("id", text)])
    message = pa.struct([*((name, text) for name in _TEXTS), ("tool_calls", pa.list_(call)), ("learn", pa.bool_())])
    origin = pa.struct([("source", text), ("file", text), ("line", pa.int64())])
    return pa.schema(
        [
            ("id", text),
            ("origin", origin),
            ("kind", text),
            ("messages", pa.list_(message)),
            ("label", text),
            ("tools", text),
            ("meta", text),
            *((column, pa.list_(pa.struct([("bytes", pa.binary()), ("path", text)]))) for column in _MEDIA if media),
        ]
    )


_MEDIA = {"images": "image", "audios": "audio"}


def to_nested_batches(data: ExportDataset, split: str) -> Iterator[pa.RecordBatch]:
    """A split's rows as Arrow batches, smaller ones where rows are long or hold media."""
    import pyarrow as pa

    schema = nested_export_schema(media=data.holds_media)
    pairs = zip(data.lines(split, "own"), data.lines(split), strict=True)
    for found in chunk_by_size(pairs, _ROWS, _size):
        rows = [{**_row(shown), **(_media_of(own, data) if data.holds_media else {})} for own, shown in found]
        yield pa.RecordBatch.from_pylist(rows, schema=schema)


def _size(pair: tuple[ExportRow, ExportRow]) -> int:
    media: int = sum(one["size"] for turn in pair[0]["messages"] for one in turn.get("media", ()))
    return media + count_characters(pair[1])


def _media_of(line: ExportRow, data: ExportDataset) -> dict[str, Any]:
    """The bytes of what a row shows and plays, by column, in order."""
    every = [one for turn in line["messages"] for one in turn.get("media", ())]
    return {
        column: [
            {"bytes": data.read_media(one["digest"]), "path": f"{one['digest'][:16]}.{one['format']}"}
            for one in every
            if one["kind"] == kind
        ]
        for column, kind in _MEDIA.items()
    }


def _row(line: ExportRow) -> dict[str, Any]:
    return {
        **{name: line[name] for name in ("id", "origin", "kind", "label")},
        "messages": [_message(message) for message in line["messages"]],
        "tools": dump_tools(line["tools"]) if "tools" in line else None,
        "meta": dump_cell_json(line["meta"]),
    }


def _message(message: dict[str, Any]) -> dict[str, Any]:
    calls = [{**call, "arguments": dump_cell_json(call["arguments"])} for call in message.get("tool_calls", ())]
    learn = message.get("learn", True)
    return {**message, "content": message.get("content", ""), "tool_calls": calls or None, "learn": learn}


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
