"""Requests and opinions to test with."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from luthier.chat.messages import Message
from luthier.traces.record import END_FIELDS, Feedback, Trace, TraceEnd, TraceStart

DAY = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tags of people depend on no file of whoever runs the tests."""
    monkeypatch.setenv("LUTHIER_PII_KEY", "for tests")
    monkeypatch.delenv("LUTHIER_TRAFFIC", raising=False)


def trace(number: int, **more: Any) -> Trace:
    """A request a minute after the one before."""
    told: dict[str, Any] = {
        "id": f"chatcmpl-{number}",
        "timestamp": DAY + timedelta(minutes=number),
        "model": "support@prod",
        "messages": (Message(role="user", content=f"Where is parcel {number}?"),),
        "answer": Message(role="assistant", content="On its way."),
        "latency_s": 0.25,
        "completion_tokens": 4,
    }
    return Trace(**told | more)


def in_two(whole: Trace) -> tuple[TraceStart, TraceEnd]:
    """A request as a gateway tells of it: its beginning, and its end."""
    fields = dict(whole)
    return {name: one for name, one in fields.items() if name not in END_FIELDS}, tuple(
        fields[name] for name in END_FIELDS
    )


def opinion(number: int, **more: Any) -> Feedback:
    """What somebody says of a request, an hour later."""
    return Feedback(trace=f"chatcmpl-{number}", timestamp=DAY + timedelta(hours=1, minutes=number), **more)


Filled = Callable[..., Path]
