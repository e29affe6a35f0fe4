"""Rows and events as plain values, on their way to another process: as objects, they take several times as long."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from luthier.data.passes.apply import Numbered
from luthier.data.passes.tables import Event
from luthier.data.row import MESSAGES, Batch, Row
from luthier.text.messages import Message

_FIELDS = tuple(Message.model_fields)
_said = attrgetter(*_FIELDS)
PackedEvents = tuple[list[int], list[tuple[Any, ...]]]
"""Numbers of rows, and the events field by field."""


class PackedBatch(NamedTuple):
    """A batch whose rows are tuples, and their turns, too."""

    rows: list[tuple[Any, ...]]
    attributes: dict[str, list[Any]]


def pack(batch: Batch) -> PackedBatch:
    """A batch as plain values."""
    return PackedBatch([_row(row) for row in batch.rows], batch.attributes)


def unpack(packed: PackedBatch) -> Batch:
    """The batch again."""
    return Batch([_row_again(*values) for values in packed.rows], packed.attributes)


def pack_events(events: Sequence[Numbered]) -> PackedEvents:
    """Events as plain values."""
    return [number for number, _ in events], list(zip(*(event for _, event in events), strict=True))


def unpack_events(packed: PackedEvents) -> list[Numbered]:
    """The events again."""
    numbers, fields = packed
    return list(zip(numbers, map(Event._make, zip(*fields, strict=True)), strict=True))


def _row(row: Row) -> tuple[Any, ...]:
    turns = list(map(_said, row.messages))
    return row.n, row.id, row.source, row.file, row.line, row.kind, turns, row.tools, row.meta, row.group, row.row


def _row_again(*values: Any) -> Row:
    number, name, source, file, line, kind, turns, tools, meta, group, at = values
    messages = MESSAGES.validate_python([dict(zip(_FIELDS, turn, strict=True)) for turn in turns])
    return Row(number, name, source, file, line, kind, messages, tools, meta, group, at)
