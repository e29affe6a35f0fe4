"""Traces and feedback as columns: what a Parquet file of a day holds. Only ever imported inside a verb."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from luthier.traces.record import Feedback, Trace
from luthier.traces.segment import Table, dumps

_AT = pa.timestamp("us", tz="UTC")
SCHEMAS: dict[Table, pa.Schema] = {
    "traces": pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("timestamp", _AT, nullable=False),
            ("operation", pa.string()),
            ("model", pa.string()),
            ("release", pa.string()),
            ("variant", pa.string()),
            ("finish_reason", pa.string()),
            ("status", pa.int32()),
            ("error", pa.string()),
            ("prompt_tokens", pa.int64()),
            ("cached_tokens", pa.int64()),
            ("completion_tokens", pa.int64()),
            ("latency_s", pa.float64()),
            ("first_token_s", pa.float64()),
            ("user", pa.string()),
            ("key", pa.string()),
            ("consent", pa.bool_()),
            ("text", pa.string()),
            ("messages", pa.string()),
            ("answer", pa.string()),
            ("scores", pa.string()),
            ("label_set", pa.string()),
            ("parameters", pa.string()),
            ("meta", pa.string()),
        ]
    ),
    "feedback": pa.schema(
        [
            pa.field("trace", pa.string(), nullable=False),
            pa.field("timestamp", _AT, nullable=False),
            ("by", pa.string()),
            ("rating", pa.float64()),
            ("label", pa.string()),
            ("correction", pa.string()),
            ("comment", pa.string()),
            ("types", pa.string()),
            ("spans", pa.string()),
            ("role", pa.string()),
            ("probability", pa.float64()),
        ]
    ),
    "rollup": pa.schema(
        [
            pa.field("timestamp", _AT, nullable=False),
            ("model", pa.string()),
            ("release", pa.string()),
            ("variant", pa.string()),
            ("measure", pa.string()),
            ("bucket", pa.int32()),
            ("count", pa.int64()),
            ("sum", pa.float64()),
        ]
    ),
}
"""`text` is what the answer says in words; columns that hold more than one value are JSON."""
_DEFAULTS: dict[str, Any] = {
    name: field.get_default()
    for record in (Trace, Feedback)
    for name, field in record.model_fields.items()
    if not field.is_required()
    and name
    not in ("messages", "scores", "label_set", "parameters", "meta", "answer", "comment", "types", "spans", "role")
}
_JSON = ("messages", "answer", "scores", "label_set", "parameters", "meta")
_JSON_OF_FEEDBACK = ("types", "spans")


def add_missing_columns(name: Table, table: pa.Table) -> pa.Table:
    """A table of an earlier version with the columns that it had not, empty."""
    for field in SCHEMAS[name]:
        if field.name not in table.schema.names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(SCHEMAS[name].names)


def records_to_table(name: Table, records: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Records as columns, in order of time."""
    rows = sorted((_flat(name, record) for record in records), key=lambda row: row["timestamp"])
    schema = SCHEMAS[name]
    return pa.Table.from_arrays(
        [pa.array([row[entry.name] for row in rows], entry.type) for entry in schema], schema=schema
    )


_MOST = {pa.int32(): 2**31 - 1, pa.int64(): 2**63 - 1}


_EMPTY_ROWS: dict[Table, dict[str, Any]] = {
    name: {entry: _DEFAULTS.get(entry) for entry in schema.names} for name, schema in SCHEMAS.items()
}
_COUNTS: dict[Table, list[tuple[str, int]]] = {
    name: [(entry.name, _MOST[entry.type]) for entry in schema if entry.type in _MOST]
    for name, schema in SCHEMAS.items()
}


def _flat(name: Table, record: Mapping[str, Any]) -> dict[str, Any]:
    found = {**_EMPTY_ROWS[name], **record}
    for entry, most in _COUNTS[name]:
        if isinstance(found[entry], int) and found[entry] > most:
            found[entry] = most
    found["timestamp"] = datetime.fromisoformat(record["timestamp"]).astimezone(UTC)
    if name == "traces":
        found["text"] = (record.get("answer") or {}).get("content")
    for column in {"traces": _JSON, "feedback": _JSON_OF_FEEDBACK}.get(name, ()):
        value = record.get(column)
        is_kept = bool(value) if name == "traces" and column != "label_set" else value is not None
        found[column] = dumps(value).decode() if is_kept else None
    return found


def rows_to_traces(rows: Iterable[Mapping[str, Any]]) -> list[Trace]:
    """Rows of the table `traces` as records."""
    return [Trace.model_validate(_deep(row, Trace.model_fields)) for row in rows]


def rows_to_feedback(rows: Iterable[Mapping[str, Any]]) -> list[Feedback]:
    """Rows of the table `feedback` as records; what was not said is not set."""
    return [Feedback.model_validate(_said(row)) for row in rows]


def _said(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in row.items() if value is not None}
    return {name: json.loads(value) if name in _JSON_OF_FEEDBACK else value for name, value in found.items()}


def _deep(row: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Any]:
    found = {name: row[name] for name in columns}
    for name in _JSON:
        found[name] = json.loads(found[name]) if found[name] is not None else _EMPTY[name]()
    return found


_EMPTY: dict[str, Callable[[], Any]] = {
    "messages": tuple,
    "answer": lambda: None,
    "scores": lambda: None,
    "label_set": lambda: None,
    "parameters": dict,
    "meta": dict,
}
