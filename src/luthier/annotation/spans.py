"""Labeled spans of a text, as annotations hold them and as extraction is trained to answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
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


def spans_to_answer(spans: Iterable[Mapping[str, Any]]) -> str:
    """The texts of spans by their labels as JSON, each once, in the order of the text; `{}` where there is none.

    Each span has `start`, `end`, `text` and `label`. The metric `json_field_f1` with `ordered: false` measures how much
    of it was found.
    """
    found: dict[str, list[str]] = {}
    for entry in sorted(spans, key=lambda span: (span["start"], span["end"])):
        texts = found.setdefault(str(entry["label"]), [])
        if entry["text"] not in texts:
            texts.append(entry["text"])
    return json.dumps(found, ensure_ascii=False)
