"""What a model was asked for, without what it says around it."""

from __future__ import annotations

import re

_QUOTES = {'"': '"', "'": "'", "“": "”", "„": "“", "«": "»", "`": "`"}
_LEAD = re.compile(r"\A[^\n:]{0,80}:[ \t]*\n+(?=\S)")
_BULLET = re.compile(r"\A(?:[-*•]|\d{1,2}[.)])[ \t]+")


def strip_answer_wrapping(text: str) -> str:
    """The answer without an announcing line (`Here it is:`), a bullet, or quotes around the whole."""
    text = _LEAD.sub("", text.strip())
    text = _BULLET.sub("", text).strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text
