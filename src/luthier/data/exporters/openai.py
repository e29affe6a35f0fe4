"""OpenAI's fine-tuning files: chat rows, or pairs of a preferred and another answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from luthier.chat.messages import Message, messages_to_openai
from luthier.chat.preference import REJECTED, parse_answer_turns
from luthier.core.errors import DataError, SourceLocation
from luthier.data.exporter import ExportDataset, Exporter, ExportRow, Say, write_lines
from luthier.data.row import MESSAGES

LEAST_ROWS = 10
LARGEST_BYTES = 512 << 20
"""OpenAI, guides "Supervised fine-tuning" and "Direct preference optimization", and the limit of an uploaded file."""
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class OpenaiOut(Exporter):
    """OpenAI fine-tuning JSONL, checked against OpenAI's rules; beside each file an index with what it cannot hold.

    `SPLIT.jsonl` holds `messages` (and `tools`), or `input`, `preferred_output` and `non_preferred_output`; line by
    line beside it, `SPLIT.index.jsonl` keeps `id`, `origin` and `meta`. Reasoning is left out.
    """

    kind: Literal["openai"] = "openai"
    form: Literal["auto", "chat", "preference"] = "auto"
    """`preference` where every row keeps another answer in its meta (`rejected`, `non_preferred_output`);
    `auto` looks and says."""

    def write(self, data: ExportDataset, folder: Path, say: Say) -> None:
        """Write both files of each split; `DataError` names the first row that OpenAI would refuse."""
        pairs = self._pairs(data, say)
        for split in data.splits:
            path = folder / f"{split}.jsonl"
            write_lines(path, _checked(data, split, pairs=pairs))
            write_lines(folder / f"{split}.index.jsonl", _index(data, split))
            if data.rows(split) < LEAST_ROWS:
                say(f"{split}: {data.rows(split)} rows; OpenAI takes files of {LEAST_ROWS} rows and more")
            if path.stat().st_size > LARGEST_BYTES:
                say(f"{split}: larger than the {LARGEST_BYTES >> 20} MB that OpenAI takes in one file")
        say("OpenAI's form holds no id, origin or meta: they stand line by line in SPLIT.index.jsonl")

    def _pairs(self, data: ExportDataset, say: Say) -> bool:
        if self.form != "auto":
            return self.form == "preference"
        found = all(_rejected(line) for split in data.splits for line in data.lines(split))
        if found:
            say("every row has a rejected answer: written as preference pairs")
        return found


def _index(data: ExportDataset, split: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(data.lines(split), start=1):
        yield {"line": number, **{name: line[name] for name in ("id", "origin", "meta")}}


def _checked(data: ExportDataset, split: str, *, pairs: bool) -> Iterator[dict[str, Any]]:
    refused: list[str] = []
    for line in data.lines(split):
        made = to_preference_example(line) if pairs else to_chat_example(line)
        if problem := (explain_preference_refusal(made) if pairs else explain_chat_refusal(made)):
            refused.append(f"{line['id']}: {problem}")
        yield made
    if refused:
        what = f"{len(refused)} of {data.rows(split)} rows would be refused by OpenAI; the first is {refused[0]}"
        raise DataError(
            what, where=SourceLocation(field=split), hint="drop or mend such rows in the recipe, or export `jsonl`"
        )


def to_chat_example(line: ExportRow) -> dict[str, Any]:
    """A row as OpenAI's chat example."""
    messages = MESSAGES.validate_python(line["messages"])
    made = {"messages": _weighed(messages)}
    return {**made, "tools": _tools(line)} if "tools" in line else made


def to_preference_example(line: ExportRow) -> dict[str, Any]:
    """A row as OpenAI's preference example: what stands before the answer, the answer, and the rejected one."""
    messages = MESSAGES.validate_python(line["messages"])
    model_input: dict[str, Any] = {"messages": messages_to_openai(messages[:-1])}
    if "tools" in line:
        model_input |= {"tools": _tools(line)}
    rejected = _rejected(line)
    turns = parse_answer_turns(rejected)
    other = turns[-1].content if turns else rejected
    return {
        "input": model_input,
        "preferred_output": messages_to_openai(messages[-1:]),
        "non_preferred_output": [{"role": "assistant", "content": other}],
    }


def _rejected(line: ExportRow) -> Any:
    """The answer that was not preferred, by whichever name it goes; None where there is none."""
    return next((found for name in REJECTED if (found := line["meta"].get(name))), None)


def _weighed(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Messages, with weight 0 on assistant turns that are not to be learnt."""
    pairs = zip(messages_to_openai(messages), messages, strict=True)
    return [made if message.learn else {**made, "weight": 0} for made, message in pairs]


def _tools(line: ExportRow) -> list[dict[str, Any]]:
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in line["tools"]]


def explain_chat_refusal(example: dict[str, Any]) -> str | None:
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


def explain_preference_refusal(example: dict[str, Any]) -> str | None:
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


def _malformed(messages: list[dict[str, Any]]) -> str | None:
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


def _bad_tools(tools: Any) -> str | None:
    for tool in tools:
        if not _NAME.fullmatch(str(tool.get("function", {}).get("name", ""))):
            return "a tool has no name of letters, digits, _ and -"
    return None
