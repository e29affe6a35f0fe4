"""Checks whether a file can be trained on: every line is read as in data preparation, and the first invalid one is
named. One line is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from luthier.chat.messages import Message
from luthier.commands.jobs.records import Method
from luthier.core.errors import LuthierError
from luthier.data.columns.turns import parse_conversation_cell
from luthier.data.row import UnusableRowError
from luthier.serve.openai.protocol import APIError
from luthier.serve.openai.responses import parse_strict_json

LINE_BYTES = 8 << 20
"""The longest line."""
_MOST_CLASSES = 100
_SUPERVISED = frozenset({"messages", "tools", "parallel_tool_calls"})
_PREFERENCE = frozenset({"input", "preferred_output", "non_preferred_output"})
_INPUT = frozenset({"messages", "tools", "parallel_tool_calls"})
_BOM = b"\xef\xbb\xbf"


class TrainingFileSummary(NamedTuple):
    """Contents of a file."""

    rows: int
    classes: int
    """Number of distinct answers, when these are few and repeated; else 0."""


def iterate_jsonl_objects(path: Path, param: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of a JSONL file with their lines; `APIError` with the line that is none."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_BYTES + 1):
            number += 1
            if len(line) > LINE_BYTES:
                raise invalid_line_error(number, f"is longer than {LINE_BYTES >> 20} MiB", param)
            text = line.removeprefix(_BOM).strip() if number == 1 else line.strip()
            if text:
                yield number, _object(text, number, param)


def _object(line: bytes, number: int, param: str) -> Mapping[str, Any]:
    try:
        line.decode()
        value = parse_strict_json(line)
    except UnicodeDecodeError as error:
        raise invalid_line_error(number, "is no UTF-8", param) from error
    except APIError as error:
        raise invalid_line_error(number, error.message.replace("the body is no JSON", "is no JSON"), param) from error
    if not isinstance(value, dict):
        raise invalid_line_error(number, "is no JSON object", param)
    return value


def validate_training_file(path: Path, method: Method, param: str) -> TrainingFileSummary:
    """Read a file to its end; `APIError` with the first line that is wrong."""
    read = _supervised if method == "supervised" else _preference
    rows, answers = 0, set[str]()
    for number, row in iterate_jsonl_objects(path, param):
        try:
            answer = read(row)
        except UnusableRowError as error:
            raise invalid_line_error(number, _describe_unusable(error), param) from error
        except LuthierError as error:
            raise invalid_line_error(number, error.message, param) from error
        rows += 1
        if len(answers) <= _MOST_CLASSES:
            answers.add(answer)
    if not rows:
        raise APIError("the file holds no row", param=param, code="invalid_file")
    few = 1 < len(answers) <= _MOST_CLASSES and len(answers) * 4 <= rows
    return TrainingFileSummary(rows, len(answers) if few else 0)


def invalid_line_error(line: int, what: str, param: str) -> APIError:
    """Build the error for an invalid line."""
    return APIError(f"line {line}: {what}", param=param, code=f"invalid_{param}")


def _describe_unusable(error: UnusableRowError) -> str:
    return f"{error.field}: {error.problem}" if error.field else error.problem


def _supervised(row: Mapping[str, Any]) -> str:
    """The last answer of a conversation."""
    if {"prompt", "completion"} <= set(row):
        raise UnusableRowError("rows of prompt and completion are for models without chat; give `messages`", None)
    _only(row, _SUPERVISED, "messages")
    turns = _turns(row.get("messages"), "messages")
    _check_tools(row.get("tools"), "tools")
    if not any(turn.role == "assistant" and turn.learn for turn in turns):
        raise UnusableRowError("no turn of the assistant is to be learnt", "messages")
    return turns[-1].content


def _preference(row: Mapping[str, Any]) -> str:
    """The answer that is preferred."""
    _only(row, _PREFERENCE, "input")
    given = row.get("input")
    if not isinstance(given, dict):
        raise UnusableRowError("expected an object with `messages`", "input")
    _only(given, _INPUT, "messages", "input.")
    if given.get("tools"):
        raise UnusableRowError("pairs of answers with tools cannot be learnt here", "input.tools")
    prompt = _turns(given.get("messages"), "input.messages")
    if prompt[-1].role == "assistant":
        raise UnusableRowError("it ends with the assistant, and nothing is left to answer", "input.messages")
    answers = [_answer(row.get(name), name) for name in ("preferred_output", "non_preferred_output")]
    if answers[0] == answers[1]:
        raise UnusableRowError("both answers are the same", "non_preferred_output")
    return answers[0]


def _answer(value: Any, name: str) -> str:
    turns = _turns(value, name)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise UnusableRowError("expected one turn of the assistant", name)
    if not turns[0].content.strip() or turns[0].tool_calls:
        raise UnusableRowError("expected an answer in words", name)
    return turns[0].content


def _only(row: Mapping[str, Any], known: frozenset[str], needed: str, before: str = "") -> None:
    if needed not in row:
        raise UnusableRowError(f"there is no {before}{needed}", None)
    if unknown := sorted(set(row) - known):
        raise UnusableRowError(f"there is no place for {before}{str(unknown[0])[:60]!r}", None)


_MESSAGE = frozenset({"role", "content", "name", "weight", "tool_calls", "tool_call_id"})
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


def _turns(value: Any, field: str) -> tuple[Message, ...]:
    """Turns as OpenAI writes them: stricter than what data may look like elsewhere."""
    if not isinstance(value, list) or not value:
        raise UnusableRowError("expected a list of messages", field)
    for at, item in enumerate(value):
        where = f"{field}[{at}]"
        if not isinstance(item, dict):
            raise UnusableRowError("expected a message with a role and content", where)
        if unknown := sorted(set(item) - _MESSAGE):
            raise UnusableRowError(f"there is no place for {str(unknown[0])[:60]!r}", where)
        if item.get("role") not in _ROLES:
            raise UnusableRowError(f"role {str(item.get('role'))[:40]!r} is unknown", where)
        _check_content(item, where)
    return parse_conversation_cell(value, field)


def _check_content(item: Mapping[str, Any], where: str) -> None:
    content = item.get("content")
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise UnusableRowError("expected parts of type 'text'", f"{where}.content")
        return
    if not isinstance(content, str) and not (content is None and item.get("tool_calls")):
        raise UnusableRowError("expected text", f"{where}.content")


def _check_tools(value: Any, field: str) -> None:
    if value is not None and not (isinstance(value, list) and all(isinstance(entry, dict) for entry in value)):
        raise UnusableRowError("expected a list of tool schemas", field)


def validate_jsonl_file(path: Path) -> None:
    """`APIError` with the first line that is no JSON object, or when there is none at all."""
    if not sum(1 for _ in iterate_jsonl_objects(path, "file")):
        raise APIError("the file holds no row", param="file", code="invalid_file")
