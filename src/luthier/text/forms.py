"""How one template wants its messages: text or parts, arguments as objects or text, thinking apart or inline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from luthier.core.errors import ModelError, Where
from luthier.text.messages import Message, ToolCall
from luthier.text.templates import Refused, Template, Turns

Thinking = Literal["field", "inline", "dropped"]
Arguments = Literal["object", "text", "dropped"]

_ASKED, _ANSWERED, _THOUGHT = "qzvkasked", "qzvkanswered", "qzvkthought"
TOOL_PROBE = {
    "type": "function",
    "function": {
        "name": "qzvkcalled",
        "description": "Looks something up.",
        "parameters": {"type": "object", "properties": {"key": {"type": "string", "description": "What to look up."}}},
    },
}
CALL_PROBE = (
    Message(role="user", content=_ASKED),
    Message(
        role="assistant", tool_calls=(ToolCall(name="qzvkcalled", arguments={"key": "qzvkgiven"}, id="c1a2l3l4x"),)
    ),
)
"""A short conversation that ends with a call of `TOOL_PROBE`."""


@dataclass(frozen=True)
class Forms:
    """Finds out once, with short probes, the form in which a template shows everything that it is given."""

    template: Template

    def turns(self, messages: Sequence[Message]) -> Turns:
        """Messages as the dictionaries that the template reads."""
        return [self._turn(message) for message in messages]

    @cached_property
    def parts(self) -> bool:
        """Whether contents are lists of parts (`[{"type": "text", …}]`), as templates of vision models want them."""
        probe = (Message(role="user", content=_ASKED), Message(role="assistant", content=_ANSWERED))
        for parts in (False, True):
            turns = [{"role": message.role, "content": _content(message.content, parts)} for message in probe]
            shown = self._shown(turns)
            if _ASKED in shown and _ANSWERED in shown:
                return parts
        raise ModelError(
            "the chat template cannot be mapped: it shows neither a question nor its answer, whatever form they take",
            where=Where(field="chat_template"),
            remedy="pass another template=, for instance the one of the model's text-only sibling",
        )

    @cached_property
    def thinking(self) -> Thinking:
        """Where the template looks for the reasoning of a turn."""
        asked = {"role": "user", "content": _content(_ASKED, self.parts)}
        answered = {"role": "assistant", "content": _content(_ANSWERED, self.parts)}
        if _THOUGHT in self._shown([asked, {**answered, **_thought(_THOUGHT)}]):
            return "field"
        inline = {"role": "assistant", "content": _content(inlined(_THOUGHT, _ANSWERED), self.parts)}
        return "inline" if _THOUGHT in self._shown([asked, inline]) else "dropped"

    @cached_property
    def arguments(self) -> Arguments:
        """The form of a tool call's arguments; "dropped" when the template has no place for calls."""
        asked = {"role": "user", "content": _content(_ASKED, self.parts)}
        forms: tuple[Arguments, ...] = ("object", "text")
        for form in forms:
            shown = self._shown([asked, self._called(CALL_PROBE[1], form)], with_tool=True)
            if "qzvkgiven" in shown and '\\"qzvkgiven' not in shown:
                return form
        return "dropped"

    def _turn(self, message: Message) -> dict[str, Any]:
        if message.tool_calls:
            return self._called(message, "object" if self.arguments == "dropped" else self.arguments)
        turn: dict[str, Any] = {"role": message.role, "content": _content(self._told(message), self.parts)}
        if message.thinking and self.thinking != "inline":
            turn.update(_thought(message.thinking))
        if message.tool_call_id is not None:
            turn["tool_call_id"] = message.tool_call_id
        if message.name is not None:
            turn["name"] = message.name
        return turn

    def _called(self, message: Message, form: Arguments) -> dict[str, Any]:
        turn: dict[str, Any] = {"role": message.role, "content": _content(self._told(message), self.parts)}
        if message.thinking and self.thinking != "inline":
            turn.update(_thought(message.thinking))
        return {**turn, "tool_calls": [_call(call, form) for call in message.tool_calls]}

    def _told(self, message: Message) -> str:
        if message.thinking and self.thinking == "inline":
            return inlined(message.thinking, message.content)
        return message.content

    def _shown(self, turns: Turns, *, with_tool: bool = False) -> str:
        try:
            return self.template.render(turns, [TOOL_PROBE] if with_tool else [])
        except Refused:
            return ""


def inlined(thinking: str, content: str) -> str:
    """Reasoning and answer as one text, the way most reasoning models write them."""
    return f"<think>\n{thinking}\n</think>\n\n{content}"


def _content(text: str, parts: bool) -> Any:
    return [{"type": "text", "text": text}] if parts else text


def _thought(thinking: str) -> dict[str, str]:
    return {"reasoning_content": thinking, "thinking": thinking}


def _call(call: ToolCall, form: Arguments) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False) if form == "text" else call.arguments
    told = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
    return told if call.id is None else {**told, "id": call.id}
