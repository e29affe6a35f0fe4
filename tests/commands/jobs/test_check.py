"""Lines that can be learnt from, and those that are named since they cannot."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fine_tuning import as_lines, chats, pairs
from luthier.commands.jobs.check import TrainingFileSummary, validate_training_file
from luthier.serve.openai.protocol import APIError


def checked(folder: Path, rows: list[Any], method: Any = "supervised") -> TrainingFileSummary:
    path = folder / "rows.jsonl"
    path.write_bytes(as_lines(rows))
    return validate_training_file(path, method, "training_file")


def test_what_openai_takes(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"n": 1}'}}
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1}]},
        {"messages": [{"role": "developer", "content": "s"},
                      {"role": "user", "content": [{"type": "text", "text": "a"}]},
                      {"role": "assistant", "content": "b", "weight": 0}, {"role": "user", "content": "c", "name": "x"},
                      {"role": "assistant", "content": "d"}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [call]},
                      {"role": "tool", "tool_call_id": "c1", "content": "1"}, {"role": "assistant", "content": "b"}],
         "tools": tools, "parallel_tool_calls": False},
    ]  # fmt: skip
    assert checked(tmp_path, rows) == TrainingFileSummary(3, 0)
    assert checked(tmp_path, pairs(20), "dpo").rows == 20
    assert checked(tmp_path, chats(40)).classes == 3


def changed(rows: list[Any], change: Callable[[Any], Any]) -> list[Any]:
    """The same rows, the third one changed."""
    found = copy.deepcopy(rows)
    change(found[2])
    return found


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda row: row.pop("messages"), "there is no messages"),
        (lambda row: row.update(messages=[]), "messages: expected a list of messages"),
        (lambda row: row.update(messages="hello"), "messages: expected a list of messages"),
        (lambda row: row.update(colour="red"), "there is no place for 'colour'"),
        (lambda row: row.update(tools="x"), "tools: expected a list of tool schemas"),
        (lambda row: row["messages"].append(7), r"messages\[3\]: expected a message"),
        (lambda row: row["messages"][1].update(role="bot"), r"messages\[1\]: role 'bot' is unknown"),
        (lambda row: row["messages"][1].update(role="function"), r"messages\[1\]: role 'function' is unknown"),
        (lambda row: row["messages"][1].update(content=7), r"messages\[1\].content: expected text"),
        (lambda row: row["messages"][1].pop("content"), r"messages\[1\].content: expected text"),
        (lambda row: row["messages"][1].update(audio={}), r"messages\[1\]: there is no place for 'audio'"),
        (lambda row: row["messages"][1].update(content=[{"type": "image_url"}]), r"\[1\].content: expected parts"),
        (lambda row: row["messages"][2].update(weight=0.5), "expected 0 or 1"),
        (lambda row: row["messages"][2].update(weight=0), "no turn of the assistant is to be learnt"),
        (lambda row: row["messages"].pop(), "no turn of the assistant is to be learnt"),
        (lambda row: row["messages"][2].update(tool_calls=[{}]), "has no function name"),
        (lambda row: (row.clear(), row.update(prompt="a", completion="b")), "give `messages`"),
    ],
)  # fmt: skip
def test_conversations_that_are_none(tmp_path: Path, change: Callable[[Any], Any], says: str) -> None:
    with pytest.raises(APIError, match=f"line 3: .*{says}") as raised:
        checked(tmp_path, changed(chats(5), change))
    assert (raised.value.param, raised.value.code) == ("training_file", "invalid_training_file")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda row: row.pop("input"), "there is no input"),
        (lambda row: row.update(input="hello"), "input: expected an object"),
        (lambda row: row.update(messages=[]), "no place for 'messages'"),
        (lambda row: row["input"].pop("messages"), "there is no input.messages"),
        (lambda row: row["input"].update(tools=[{"type": "function"}]), "input.tools: pairs of answers with tools"),
        (lambda row: row["input"]["messages"].append({"role": "assistant", "content": "x"}), "ends with the assistant"),
        (lambda row: row.pop("preferred_output"), "preferred_output: expected a list"),
        (lambda row: row.update(preferred_output="yes"), "preferred_output: expected a list"),
        (lambda row: row["preferred_output"].append(row["preferred_output"][0]), "expected one turn of the assistant"),
        (lambda row: row["preferred_output"][0].update(role="user"), "expected one turn of the assistant"),
        (lambda row: row["preferred_output"][0].update(content="  "), "expected an answer in words"),
        (lambda row: row.update(non_preferred_output=row["preferred_output"]), "both answers are the same"),
    ],
)
def test_pairs_that_are_none(tmp_path: Path, change: Callable[[Any], Any], says: str) -> None:
    with pytest.raises(APIError, match=f"line 3: .*{says}"):
        checked(tmp_path, changed(pairs(5), change), "dpo")


def test_a_file_for_one_method_is_none_for_the_other(tmp_path: Path) -> None:
    with pytest.raises(APIError, match="line 1: there is no input"):
        checked(tmp_path, chats(3), "dpo")
    with pytest.raises(APIError, match="line 1: there is no messages"):
        checked(tmp_path, pairs(3))
