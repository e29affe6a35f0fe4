"""Files to learn from, as OpenAI's clients upload them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tiny_models import tickets


def as_lines(rows: Iterable[Any]) -> bytes:
    """JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def chats(count: int = 24, first: int = 0) -> list[dict[str, Any]]:
    """Conversations, as supervised tuning reads them."""
    return [
        {
            "messages": [
                {"role": "system", "content": "Sort."},
                {"role": "user", "content": row["message"]},
                {"role": "assistant", "content": row["category"]},
            ]
        }
        for row in tickets(first + count)[first:]
    ]


def pairs(count: int = 24) -> list[dict[str, Any]]:
    """Pairs of answers, as preference tuning reads them."""
    return [
        {
            "input": {"messages": [{"role": "user", "content": row["message"]}]},
            "preferred_output": [{"role": "assistant", "content": row["category"]}],
            "non_preferred_output": [{"role": "assistant", "content": "no idea"}],
        }
        for row in tickets(count)
    ]
