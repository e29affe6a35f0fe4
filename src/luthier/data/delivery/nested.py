"""Rows that go out as Arrow: messages as structs, whatever has no fixed shape as JSON text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from luthier.data.engine.tables import dump_cell_json, dump_tools
from luthier.data.exporter import ExportDataset, ExportRow
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
