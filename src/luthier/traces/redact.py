"""Personal data taken out of a record before it is written, by the finders that the data room uses.

What was found is replaced by its kind (`[EMAIL]`). Who asked or said something is replaced by a keyed tag that is the
same wherever the person is the same (`[EMAIL:kbdjefhmao]`), so that people can still be told apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from threading import Lock
from typing import Any

from luthier.chat.messages import MEDIA_MARK
from luthier.pii.detect import find_pii
from luthier.pii.hmac_key import KEY_VARIABLE, HmacKey
from luthier.pii.recognizer import TextPart
from luthier.pii.span import ANY, PiiKind, PiiSpan, TextPrescan, field_context_of
from luthier.traces.retention import RetentionPolicy

_REMEMBERED = 512
"""Texts that are asked again and again: system turns, earlier turns of a conversation."""
_LONGEST_REMEMBERED = 16 << 10
_PEOPLE_REMEMBERED = 4096
"""People who ask again."""
_SHORTEST_NUMBER = 9
"""Digits of a number that may say who somebody is."""
_SPOKEN = ("content", "thinking", "name")
_PEOPLE = ("user", "by")
_DIGIT = re.compile(r"\d")
_NO_DIGITS = TextPrescan(frozenset(("digits",)), [])
_PLAIN: dict[str, TextPart] = {"error": "prompt", "comment": "prompt", "correction": "answer", "label": "answer"}


class Redactor:
    """Takes personal data out of records as JSON has them."""

    def __init__(self, keeping: RetentionPolicy) -> None:
        self._kinds, self.names = keeping.kinds, keeping.names
        """`names` are models, which take some tens of milliseconds a text."""
        self._one_at_a_time = Lock()
        self._names_in = frozenset(keeping.names_in)
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._replaced)
        self._person = lru_cache(maxsize=_PEOPLE_REMEMBERED)(self._tagged)

    def record(self, record: dict[str, Any]) -> dict[str, Any]:
        """A trace or feedback without personal data."""
        if not self._kinds:
            return record
        made = dict(record)
        for name, part in _PLAIN.items():
            if made.get(name):
                made[name] = self.text(made[name], part)
        if made.get("types"):
            made["types"] = [self.text(entry) for entry in made["types"]]
        if made.get("spans"):
            made["spans"] = [{**entry, "type": self.text(entry.get("type", ""))} for entry in made["spans"]]
        for name in _PEOPLE:
            if made.get(name):
                made[name] = self._person(made[name])
        for name in ("meta", "parameters"):
            if made.get(name):
                made[name] = self._value(made[name], "")
        if made.get("messages"):
            made["messages"] = [self._message(message) for message in made["messages"]]
        if made.get("answer"):
            made["answer"] = self._message(made["answer"], "answer")
        return made

    def text(self, text: str, part: TextPart = "prompt") -> str:
        """A text of some part with every find replaced by its kind."""
        return (self._remembered if len(text) <= _LONGEST_REMEMBERED else self._replaced)(text, part)

    def find(self, text: str, part: TextPart = "prompt") -> list[tuple[int, int, PiiKind]]:
        """Where personal data stands in a text of some part: start, end and kind of each, in order."""
        return self._finds("", text, part) if self._kinds else []

    def _replaced(self, text: str, part: TextPart) -> str:
        return _put(text, self._finds("", text, part), lambda kind, found: f"[{kind.upper()}]")

    def _tagged(self, text: str) -> str:
        finds = self._finds("", text, next(iter(self._names_in), "meta"))  # who asks is no class: names are looked for
        return _put(text, finds, lambda kind, found: f"[{kind.upper()}:{_keeper().tag(found)}]")

    def _finds(self, context: str, text: str, part: TextPart) -> list[tuple[int, int, PiiKind]]:
        """Where something stands; a context is read with the text, and nothing in it is a find."""
        shift = len(context)
        whole = context + text
        named = list[PiiSpan]()
        if self.names and part in self._names_in:
            with self._one_at_a_time:
                named = [found for model in self.names for found in model.find_names([whole])[0]]
        finds = find_pii(whole, self._kinds, named, ANY if _DIGIT.search(whole) else _NO_DIGITS)
        return [(find.start - shift, find.end - shift, find.kind) for find in finds if find.start >= shift]

    def _message(self, message: Mapping[str, Any], part: TextPart | None = None) -> dict[str, Any]:
        made = dict(message)
        part = part or ("system" if made.get("role") == "system" else "prompt")
        for name in _SPOKEN:
            if made.get(name):
                made[name] = self._around_media(made[name], part) if made.get("media") else self.text(made[name], part)
        if made.get("tool_calls"):
            made["tool_calls"] = [
                {**call, "arguments": self._value(call.get("arguments", {}), "", part)} for call in made["tool_calls"]
            ]
        return made

    def _around_media(self, text: str, part: TextPart) -> str:
        """A text between whose pieces pictures and sounds stand: no find takes the place of one."""
        return MEDIA_MARK.join(self.text(piece, part) for piece in text.split(MEDIA_MARK))

    def _value(self, value: Any, name: str, part: TextPart = "meta") -> Any:
        """Whatever is nested in tool calls and columns; a column's name says what its value is."""
        if isinstance(value, Mapping):
            return {key: self._value(inner, str(key), part) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._value(inner, name, part) for inner in value]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not isinstance(value, str) and not (is_number and len(str(value)) >= _SHORTEST_NUMBER):
            return value
        text = str(value)
        finds = self._finds(field_context_of(name) if name else "", text, part)
        return _put(text, finds, lambda kind, found: f"[{kind.upper()}]") if finds else value


def _put(text: str, finds: list[tuple[int, int, PiiKind]], stand_in: Callable[[PiiKind, str], str]) -> str:
    for start, end, kind in reversed(finds):
        text = text[:start] + stand_in(kind, text[start:end]) + text[end:]
    return text


@lru_cache(maxsize=1)
def _keeper() -> HmacKey:
    return HmacKey.of(KEY_VARIABLE)
