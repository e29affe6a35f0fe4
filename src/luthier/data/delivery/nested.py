"""Rows that go out as Arrow: messages as structs, whatever has no fixed shape as JSON text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from luthier.data.engine.tables import dump_cell_json, dump_tools
from luthier.data.exporter import ExportRow
from luthier.data.row import chunk_by_size, count_characters

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 1024
_TEXTS = ("role", "content", "thinking", "tool_call_id", "name", "tag")


def nested_export_schema() -> pa.Schema:
    """Columns of a data set that goes out as Arrow or Parquet."""
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
        ]
    )


def to_nested_batches(lines: Iterable[ExportRow]) -> Iterator[pa.RecordBatch]:
    """Rows as Arrow batches, smaller ones where rows are long."""
    import pyarrow as pa

    for found in chunk_by_size(lines, _ROWS, count_characters):
        yield pa.RecordBatch.from_pylist([_row(line) for line in found], schema=nested_export_schema())


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
