"""Labelled places in texts, as answers tell them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.annotation.question import InvalidAnswer, QuestionItem


def find_span(one: Any, item: QuestionItem, expected: str) -> dict[str, Any]:
    """The place of a span that is told by `start` and `end` (characters) or by `text` alone, where that stands first.

    Raises:
        InvalidAnswer: `one` is no mapping, or the item's text has no such place.
    """
    if not isinstance(one, Mapping):
        raise InvalidAnswer(f"expected {expected}, got {one!r}")
    shown, text = item.text, one.get("text")
    start = one.get("start", shown.find(text) if isinstance(text, str) else -1)
    end = one.get("end", start + len(text) if isinstance(text, str) and isinstance(start, int) else -1)
    whole = all(isinstance(at, int) and not isinstance(at, bool) for at in (start, end))
    if not whole or not 0 <= start < end <= len(shown):
        raise InvalidAnswer(f"the text has no place {text or (start, end)!r}")
    return {"start": start, "end": end, "text": shown[start:end]}
