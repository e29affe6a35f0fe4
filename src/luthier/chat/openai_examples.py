"""Rows in the form of OpenAI's fine-tuning files, which other providers take as well, and why OpenAI would refuse one.

OpenAI, guides "Supervised fine-tuning" and "Direct preference optimization".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from luthier.chat.messages import Message, messages_to_openai
from luthier.chat.preference import REJECTED, parse_answer_turns

ReadBytes = Callable[[str], bytes]
LEAST_ROWS = 10
LARGEST_BYTES = 512 << 20
"""The limit of an uploaded file."""
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def format_chat_example(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), read_media: ReadBytes | None = None
) -> dict[str, Any]:
    """A row as a chat example: weight 0 on assistant turns that are not to be learnt. With `read_media`, which gives
    bytes by digest, pictures stand in their turns as data URLs."""
    pairs = zip(messages_to_openai(messages, read_media), messages, strict=True)
    made: dict[str, Any] = {
        "messages": [entry if message.learn else {**entry, "weight": 0} for entry, message in pairs]
    }
    return {**made, "tools": _format_tools(tools)} if tools else made


def format_preference_example(
    messages: Sequence[Message],
    rejected: Any,
    tools: Sequence[Mapping[str, Any]] = (),
    read_media: ReadBytes | None = None,
) -> dict[str, Any]:
    """A row as a preference example: what stands before the answer, the answer, and the rejected one."""
    model_input: dict[str, Any] = {"messages": messages_to_openai(messages[:-1], read_media)}
    if tools:
        model_input |= {"tools": _format_tools(tools)}
    turns = parse_answer_turns(rejected)
    other = turns[-1].content if turns else rejected
    return {
        "input": model_input,
        "preferred_output": messages_to_openai(messages[-1:]),
        "non_preferred_output": [{"role": "assistant", "content": other}],
    }


def get_rejected_answer(meta: Mapping[str, Any]) -> Any:
    """The answer that was not preferred, by whichever name it goes; None where there is none."""
    return next((found for name in REJECTED if (found := meta.get(name))), None)


def explain_chat_refusal(example: Mapping[str, Any]) -> str | None:
    """Why OpenAI would refuse a chat example, or None."""
    messages = example["messages"]
    if not any(message["role"] == "assistant" for message in messages):
        return "no assistant turn"
    if not any(message["role"] == "user" for message in messages):
        return "no user turn (text to continue is no conversation)"
    if messages[-1]["role"] != "assistant":
        return f"the last turn is by {messages[-1]['role']}"
    if all(message.get("weight") == 0 for message in messages if message["role"] == "assistant"):
        return "no assistant turn has a weight of 1"
    return _malformed(messages) or _bad_tools(example.get("tools", ()))


def explain_preference_refusal(example: Mapping[str, Any]) -> str | None:
    """Why OpenAI would refuse a preference example, or None."""
    messages = example["input"]["messages"]
    if not messages or messages[-1]["role"] not in ("user", "tool"):
        return "the input does not end with a user turn"
    for name in ("preferred_output", "non_preferred_output"):
        [answer] = example[name]
        if answer["role"] != "assistant" or not isinstance(answer["content"], str) or not answer["content"]:
            return f"{name} is not one assistant text"
    if example["preferred_output"][0]["content"] == example["non_preferred_output"][0]["content"]:
        return "both answers are the same"
    return _malformed(messages) or _bad_tools(example["input"].get("tools", ()))


def _format_tools(tools: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**tool} if "function" in tool else {"type": "function", "function": {**tool}} for tool in tools]


def _malformed(messages: Iterable[Mapping[str, Any]]) -> str | None:
    called: set[str] = set()
    for message in messages:
        if "name" in message and not _NAME.fullmatch(message["name"]):
            return f"the name {message['name']!r} has other signs than letters, digits, _ and -"
        called |= {call["id"] for call in message.get("tool_calls", ())}
        if message["role"] == "tool" and message.get("tool_call_id") not in called:
            return "a tool's answer names no call that stands before it"
        if not message["content"] and not message.get("tool_calls"):
            return f"a turn by {message['role']} is empty"
    return None


def _bad_tools(tools: Iterable[Mapping[str, Any]]) -> str | None:
    for tool in tools:
        if not _NAME.fullmatch(str(tool.get("function", {}).get("name", ""))):
            return "a tool has no name of letters, digits, _ and -"
    return None
