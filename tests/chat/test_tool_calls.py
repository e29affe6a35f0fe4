"""Calls of functions as real chat templates write them: learnt by showing one, read back in any pieces."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.chat.messages import Message, ToolCall
from luthier.chat.tokenizer import ChatTokenizer
from luthier.chat.tool_calls import ToolCallFormat, ToolCallParser
from tests.chat.families import family

OFFER = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
CALLS = (
    ToolCall(name="look_up", arguments={"key": "a } b", "n": [1, {"x": "ü"}]}),
    ToolCall(name="look_up", arguments={}),
)


@cache
def text(name: str) -> ChatTokenizer:
    return ChatTokenizer(family(name))


@cache
def form(name: str) -> ToolCallFormat:
    found = ToolCallFormat.of(text(name))
    assert found is not None
    return found


def read(name: str, parts: list[str]) -> tuple[str, list[ToolCall], bool]:
    reader, said, calls = ToolCallParser(form(name), {"look_up"}), "", []
    for part in parts:
        found = reader.add(part)
        said += found.text
        calls += found.calls
    return said + reader.rest().text, calls, reader.called


@pytest.mark.parametrize(
    ("name", "opening", "closing", "arguments"),
    [
        ("qwen2_5", "<tool_call>\n", "\n</tool_call>", "arguments"),
        ("qwen3", "<tool_call>\n", "\n</tool_call>", "arguments"),
        ("llama3_1", "", "", "parameters"),
        ("llama3_2", "", "", "parameters"),
    ],
)
def test_forms_of_templates(name: str, opening: str, closing: str, arguments: str) -> None:
    assert form(name) == ToolCallFormat(opening, closing, "name", arguments)


@pytest.mark.parametrize("name", ["gemma3", "phi3", "cohere", "qwen3_6", "gptoss", "glm4moe"])
def test_templates_without_calls_or_in_another_form(name: str) -> None:
    assert ToolCallFormat.of(text(name)) is None


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "llama3_1"])
@given(data=st.data())
def test_what_a_template_writes_is_read_back(name: str, data: st.DataObject) -> None:
    calls = CALLS[: 1 if name == "llama3_1" else data.draw(st.integers(1, 2))]
    before = "" if name == "llama3_1" else data.draw(st.sampled_from(["", "Let me see. ", "a < b <tool"]))
    turns = [Message(role="user", content="hi"), Message(role="assistant", content=before, tool_calls=calls)]
    shown = text(name).render(turns, [OFFER])
    written = (
        shown.text[shown.turns[-1].start : shown.turns[-1].end].removesuffix("<|im_end|>").removesuffix("<|eot_id|>")
    )
    written = written.removeprefix("<think>\n\n</think>\n\n")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(written)), max_size=8)))
    parts = [written[one:other] for one, other in zip([0, *cuts], [*cuts, len(written)], strict=True)]
    said, found, called = read(name, parts)
    assert tuple(found) == calls
    assert said.strip() == before.strip()
    assert called


@pytest.mark.parametrize(
    "written",
    [
        "no call at all",
        "<tool_call>\nnot JSON\n</tool_call>",
        '<tool_call>\n{"name": "look_up", "arguments": {"a": 1}',
        '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "look_up", "arguments": 5}\n</tool_call>',
        '<tool_call>\n{"name": ["look_up"]}\n</tool_call>',
        "<tool_call>\n" + "[" * 5000,
        "<tool_call",
        "{}",
        "",
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_call_is_text(written: str) -> None:
    assert read("qwen2_5", [written]) == (written, [], False)
    assert read("qwen2_5", list(written)) == (written, [], False)


def test_an_answer_that_is_json_but_no_call_stays_text() -> None:
    for written in ('{"a": 1}', ' {"name": "unknown", "parameters": {}}', "{", '{"name": "look_up"'):
        assert read("llama3_1", list(written))[0] == written
    said, calls, _ = read("llama3_1", ['See {"name": "look_up", "parameters": {}}'])
    assert (said, calls) == ('See {"name": "look_up", "parameters": {}}', [])
