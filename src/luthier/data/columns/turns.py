"""From what stands in a cell to turns of a conversation: text, OpenAI messages, ShareGPT, tool calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from luthier.chat.messages import Message, Role, ToolCall
from luthier.chat.preference import parse_hh_transcript
from luthier.core.errors import did_you_mean
from luthier.data.columns.media import is_text, parse_media_part
from luthier.data.row import UnusableRowError, from_json

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "customer": "user",
    "client": "user",
    "caller": "user",
    "requester": "user",
    "end-user": "user",
    "end_user": "user",
    "end user": "user",
    "contact": "user",
    "lead": "user",
    "inbound": "user",
    "incoming": "user",
    "visitor": "user",
    "agent": "assistant",
    "admin": "assistant",
    "outbound": "assistant",
    "outgoing": "assistant",
    "support": "assistant",
    "operator": "assistant",
    "representative": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "ai": "assistant",
}
"""Roles by the names that OpenAI, ShareGPT and their relatives, and desks use."""
CALL = "function_call"
"""ShareGPT's name for an assistant turn that is a call of a tool, written as JSON."""
_WHO = ("role", "from", "speaker", "author")
_SAID = ("content", "value", "text", "body", "message", "utterance")


def cell_to_text(value: Any, field: str) -> str:
    """A cell as text: numbers and truth values as JSON writes them, nothing as empty."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    what = "a list" if isinstance(value, list) else "an object"
    raise UnusableRowError(f"expected text, got {what}", field)


def cell_to_turns(value: Any, role: Role, field: str) -> tuple[Message, ...]:
    """A cell as turns: text is one turn of `role`; a list of messages is taken as it is."""
    if isinstance(value, dict) and ("messages" in value or _first(value, _WHO) is not None):
        value = value.get("messages", [value])
    if isinstance(value, list):
        return parse_conversation_cell(value, field)
    return (Message(role=role, content=cell_to_text(value, field)),)


def parse_conversation_cell(value: Any, field: str) -> tuple[Message, ...]:
    """A list of turns, given as `role`/`content` or as `from`/`value`, as JSON text of such a list, or as a transcript
    of `Human: …` and `Assistant: …` in paragraphs."""
    if isinstance(value, str):
        if (messages := parse_hh_transcript(value)) is not None:
            return messages
        value = from_json(value, field)
    if not isinstance(value, list):
        raise UnusableRowError("expected a list of messages", field)
    if not value:
        raise UnusableRowError("the list of messages is empty", field)
    return tuple(_message(item, f"{field}[{index}]") for index, item in enumerate(value))


def _message(item: Any, field: str) -> Message:
    if not isinstance(item, dict):
        raise UnusableRowError("expected a message with a role and content", field)
    name = _first(item, _WHO)
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if name == CALL:
        calls = from_json(cell_to_text(_first(item, _SAID), field), field)
        tool_calls = tuple(_tool_call(call, field) for call in (calls if isinstance(calls, list) else [calls]))
        return Message(role="assistant", tool_calls=tool_calls, learn=_learnt(item, field))
    if role is None:
        known = [*get_args(Role), "human", "gpt"]
        hint = did_you_mean(name.lower(), known) if isinstance(name, str) else f"known: {', '.join(known)}"
        what = f"role {name!r} is unknown" if name is not None else "a message has no role"
        if isinstance(name, (dict, list)):
            what = f"expected a word for who speaks, got {'a list' if isinstance(name, list) else 'an object'}"
        raise UnusableRowError(what, field, hint)
    calls = item.get("tool_calls") or []
    if not isinstance(calls, list):
        raise UnusableRowError("expected a list of tool calls", field)
    return Message(
        role=role,
        content=_content(_first(item, _SAID), field),
        thinking=cell_to_text(item.get("thinking", item.get("reasoning_content")), f"{field}.thinking"),
        tool_calls=tuple(_tool_call(call, field) for call in calls),
        tool_call_id=_name(item, "tool_call_id", field),
        name=_name(item, "name", field),
        tag=_name(item, "tag", field),
        learn=role != "assistant" or _learnt(item, field),
    )


def _first(item: dict[str, Any], names: Sequence[str]) -> Any:
    """The value under the first of some names that the item has."""
    return next((item[name] for name in names if name in item), None)


def _learnt(item: dict[str, Any], field: str) -> bool:
    """Whether an assistant turn is to be learnt: OpenAI's `weight` (0 or 1), `train`, or our own `learn`."""
    for key in ("weight", "train", "learn"):
        value = item.get(key)
        if value is not None and value not in (0, 1):
            expected = "0 or 1" if key == "weight" else "true or false"
            raise UnusableRowError(f"expected {expected}, got {value!r}", f"{field}.{key}")
        if value == 0:
            return False
    return True


def _name(item: dict[str, Any], key: str, field: str) -> str | None:
    """A name or an id, which is text; a number is taken as its digits."""
    value = item.get(key)
    return None if value is None else cell_to_text(value, f"{field}.{key}")


def _content(value: Any, field: str) -> str:
    """Content as text, or as a list of parts: text as it stands, a mark for each image, sound or film."""
    if not isinstance(value, list):
        return cell_to_text(value, field)
    texts: list[str] = []
    for part in value:
        if not isinstance(part, dict):
            raise UnusableRowError("expected parts with a type", field)
        if not is_text(part):
            texts.append(parse_media_part(part, field).mark)
            continue
        text = part.get("text", part.get("value"))
        if not isinstance(text, str):
            raise UnusableRowError("a part of type 'text' has no text", field)
        texts.append(text)
    return "".join(texts)


def _tool_call(call: Any, field: str) -> ToolCall:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UnusableRowError("a tool call has no function name", field)
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = from_json(arguments, field)
    if not isinstance(arguments, dict):
        raise UnusableRowError("a tool call's arguments are not an object", field)
    return ToolCall(name=function["name"], arguments=arguments, id=_name(call, "id", field))
