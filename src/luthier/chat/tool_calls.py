"""Parse tool calls in a model's output, in the format learned from its chat template.

The template is shown one call and the text that it makes is taken apart: what stands before the call, the object with
the name and the arguments, what stands behind. Templates that write calls in another form than a JSON object (as XML,
as code) are not read; `ToolCallFormat.of` says None for them.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from luthier.chat.messages import ToolCall
from luthier.chat.template import CALL_PROBE, TOOL_PROBE
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.errors import ModelError

_NAME, _GIVEN = CALL_PROBE[1].tool_calls[0].name, CALL_PROBE[1].tool_calls[0].arguments
_THOUGHT = "</think>"


@dataclass(frozen=True)
class ToolCallFormat:
    """One model's way to write a call: `opening {"name": …, "arguments": …} closing`."""

    opening: str
    """What stands before the object; empty where an answer that calls is the object and nothing else."""
    closing: str
    name: str
    """The object's key for the function's name."""
    arguments: str
    """Its key for the arguments."""

    @classmethod
    def of(cls, text: ChatTokenizer) -> ToolCallFormat | None:
        """The form that a model's chat template writes; None when it has none, or one that is no JSON object."""
        try:
            shown = text.render(CALL_PROBE, [TOOL_PROBE])
        except ModelError:
            return None
        if not shown.turns:
            return None
        turn = shown.text[shown.turns[-1].start : shown.turns[-1].end]
        return next((form for position in _braces(turn) if (form := _form(turn, position, text.special_tokens))), None)

    def read(self, value: object, offered: Collection[str]) -> ToolCall | None:
        """The call that an object is; None when it is none, or of a function that is not on offer."""
        if not isinstance(value, dict) or set(value) - {self.name, self.arguments, "id", "type"}:
            return None
        name, arguments = value.get(self.name), value.get(self.arguments, {})
        if not isinstance(name, str) or name not in offered or not isinstance(arguments, dict):
            return None
        return ToolCall(name=name, arguments=arguments)


def _braces(text: str) -> list[int]:
    return [position for position, char in enumerate(text) if char == "{"]


def _form(turn: str, position: int, special: Collection[str]) -> ToolCallFormat | None:
    """The form, when the object that begins here is the call."""
    try:
        found, end = json.JSONDecoder().raw_decode(turn, position)
    except ValueError:
        return None
    names = [key for key, value in found.items() if value == _NAME]
    arguments = [key for key, value in found.items() if value == _GIVEN]
    if not names or not arguments:
        return None
    opening = turn[:position].rpartition(_THOUGHT)[2].lstrip("\n")
    return ToolCallFormat(opening, _without_ends(turn[end:], special), names[0], arguments[0])


def _without_ends(closing: str, special: Collection[str]) -> str:
    """What stands behind a call, without the special tokens that end the turn."""
    while last := next((token for token in special if closing.endswith(token)), None):
        closing = closing[: -len(last)]
    return closing


class ParsedChunk(NamedTuple):
    """What of an answer is certain: plain text, then calls."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()


class ToolCallParser:
    """Parts an answer into text and calls as it is written. What turns out to be no call is text."""

    def __init__(self, form: ToolCallFormat, offered: Collection[str]) -> None:
        self._form, self._offered = form, offered
        self._held = ""
        """What is not certain yet."""
        self._inside = False
        """Whether what is held begins with the opening."""
        self._begun = False
        """Whether any text was given away."""
        self.called = False

    def add(self, text: str) -> ParsedChunk:
        """What is certain now, and was not before."""
        self._held += text
        output, calls = "", list[ToolCall]()
        while True:
            if not self._inside:
                output += self._plain()
            if not self._inside or (call := self._call()) is None:
                break
            if isinstance(call, str):
                output += call
            else:
                calls.append(call)
        return self._read(output, calls)

    def rest(self) -> ParsedChunk:
        """What was held back, when no more comes."""
        output, self._held, self._inside = self._held, "", False
        return self._read(output, [])

    def _read(self, output: str, calls: list[ToolCall]) -> ParsedChunk:
        self.called = self.called or bool(calls)
        if self.called and not output.strip():
            output = ""  # what a template puts between two calls
        self._begun = self._begun or bool(output.strip())
        return ParsedChunk(output, tuple(calls))

    def _plain(self) -> str:
        """Text up to where a call begins, or might."""
        opening = self._form.opening
        if not opening:
            return self._bare()
        position = self._held.find(opening)
        if position >= 0:
            self._inside = True
            output, self._held = self._held[:position], self._held[position:]
            return output
        keep = partial_match_length(self._held, opening)
        output, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return output

    def _bare(self) -> str:
        """The same where a call has no opening: only a whole answer is one."""
        waiting = not self._begun and not self._held.lstrip()
        if waiting:
            return ""
        if not self._begun and self._held.lstrip().startswith("{"):
            self._inside = True
            return ""
        output, self._held = self._held, ""
        return output

    def _call(self) -> ToolCall | str | None:
        """The call at the beginning of what is held, or the text that is none; None while that is not certain."""
        body = self._held[len(self._form.opening) :].lstrip()
        if not body:
            return None
        try:
            value, end = json.JSONDecoder().raw_decode(body)
        except (ValueError, RecursionError):
            return None if body.startswith("{") else self._let_go(self._held)
        after, closing = body[end:].lstrip(), self._form.closing.strip()
        call = self._form.read(value, self._offered)
        if call is None:
            return self._let_go(self._held)
        if closing and not after.startswith(closing) and closing.startswith(after):
            return None
        self._held, self._inside = after.removeprefix(closing), False
        return call

    def _let_go(self, text: str) -> str:
        self._held, self._inside, self._begun = self._held[len(text) :], False, True
        return text


def partial_match_length(text: str, word: str) -> int:
    """How many characters at the end of a text may be the beginning of a word."""
    most = min(len(text), len(word) - 1)
    return next((count for count in range(most, 0, -1) if text.endswith(word[:count])), 0)
