"""Rows and events are the same on the other side of a process's border."""

from __future__ import annotations

import pickle

from luthier.chat.messages import Message, ToolCall
from luthier.data.engine.spill import pack, pack_events, unpack, unpack_events
from luthier.data.engine.tables import RowEvent
from luthier.data.row import Batch, Row


def test_rows_come_over_as_they_were() -> None:
    call = ToolCall(name="look_up", arguments={"order": [1, {"é": None}]}, id="c1")
    turns = (
        Message(role="system", content="be kind", tag="t"),
        Message(role="assistant", thinking="hm", tool_calls=(call,), learn=False),
        Message(role="tool", content="", tool_call_id="c1", name="look_up"),
    )
    whole = Row(3, "a", "jsonl", "f", 4, "tool", turns, ({"name": "look_up"},), {"n": 1.5, "deep": {"x": [1]}}, "g")
    plain = Row(4, "b", "jsonl", "f", 5, "completion", (Message(role="assistant", content="hello"),))
    batch = Batch([whole, plain], {"language.language": ["en", "de"]})
    assert unpack(pickle.loads(pickle.dumps(pack(batch)))) == batch
    assert unpack(pack(Batch([]))) == Batch([])


def test_events_come_over_as_they_were() -> None:
    events = [
        (7, RowEvent("a", "f", 1, "pii", "edit", "email", "messages[0].content", 0, 3, "abc", "<x>")),
        (7, RowEvent("a", "f", 1, "near_dedup", "drop", "near duplicate", twin="b", similarity=0.9)),
    ]
    again = unpack_events(pickle.loads(pickle.dumps(pack_events(events))))
    assert again == events
    assert isinstance(again[0][1], RowEvent)
    assert unpack_events(pack_events([])) == []
