"""Rows with tool calls: check that the chat template of a model renders them.

With any other template the calls would not be trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from luthier.artifacts.dataset import OUTLINED, has_split, preview_input_examples, rows_with_tools
from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, SourceLocation
from luthier.core.events import format_counted_noun
from luthier.core.step import PlanContext
from luthier.models.chat_template import ToolSupport, list_fitting_templates, read_tool_support
from luthier.models.cost import find_tokenizer_folder, predict_tool_support
from luthier.models.load import find_base_folder, get_model_name, is_endpoint

if TYPE_CHECKING:
    pass

WITH_TOOLS = "qwen2.5-0.5b-instruct"
"""A model of the catalogue whose own chat template writes tools."""
_NAMED = 4
"""Number of rows that an error names."""


class ToolRow(NamedTuple):
    """A row that offers tools, or in which the assistant calls one."""

    location: SourceLocation
    offers: bool
    calls: bool


def refuse_tool_rows(data: Artifact, model: Artifact) -> None:
    """Raise `ModelError` where training rows have tools that the model's chat template cannot render."""
    if is_endpoint(model) or all(tool_support := read_tool_support(find_base_folder(model))):
        return
    _refuse(_read_tool_rows(data), tool_support, get_model_name(model), list_fitting_templates(find_base_folder(model)))


def refuse_planned_tool_rows(plan_context: PlanContext) -> None:
    """Refuse tool rows before a training: those of the data set when it exists, else those of its source that were
    read.
    """
    tool_support = predict_tool_support(plan_context)
    if tool_support is None or all(tool_support):
        return
    artifact, model = plan_context.inputs.get("data"), plan_context.inputs.get("model")
    rows = _read_tool_rows(artifact) if artifact is not None else _rows_ahead(plan_context)
    name = get_model_name(model) if model is not None else "the base model"
    looked = "" if artifact is not None else " of those looked at"
    _refuse(rows, tool_support, name, list_fitting_templates(find_tokenizer_folder(plan_context)), looked)


def _read_tool_rows(data: Artifact) -> Iterator[ToolRow]:
    """The training rows of a data set that have tools, in source order."""
    if not has_split(data, "train"):
        return
    for row in rows_with_tools(data, "train"):
        offers = bool(json.loads(row["tools"]))
        calls = any(turn.get("tool_calls") for turn in json.loads(row["messages"]))
        if offers or calls:
            yield ToolRow(SourceLocation(file=row["file"], line=row["line"]), offers, calls)


def _rows_ahead(plan_context: PlanContext) -> Iterator[ToolRow]:
    """Yield the rows with tools among the rows that were read for the plan."""
    for example in preview_input_examples(plan_context, "train", OUTLINED):
        offers, calls = bool(example.tools), any(message.tool_calls for message in example.messages)
        if offers or calls:
            yield ToolRow(SourceLocation(file=example.origin.file, line=example.origin.line), offers, calls)


def _refuse(
    rows: Iterable[ToolRow], tool_support: ToolSupport, name: str, fitting: list[str], looked: str = ""
) -> None:
    tool_rows = [
        row for row in rows if (row.offers and not tool_support.offers) or (row.calls and not tool_support.calls)
    ]
    if not tool_rows:
        return
    offers, calls = any(row.offers for row in tool_rows), any(row.calls for row in tool_rows)
    lacking = [
        *(["tools on offer"] if offers and not tool_support.offers else []),
        *(["calls of tools"] if calls and not tool_support.calls else []),
    ]
    who = (
        f"this row and {format_counted_noun(len(tool_rows) - 1, 'other')}{looked} have"
        if len(tool_rows) > 1
        else "this row has"
    )
    what = (
        f"{who} tools{_name_lines(tool_rows)}, and the chat template of {name} has no place for {' or '.join(lacking)}"
    )
    raise ModelError(f"{what}: they would not be trained on", where=tool_rows[0].location, hint=_remedy(fitting, calls))


def _name_lines(located_rows: list[ToolRow]) -> str:
    """Return, in brackets, where the first of the other rows are: line numbers where all are in one file."""
    tool_rows = located_rows[1:_NAMED]
    if not tool_rows:
        return ""
    one_file = len({row.location.file for row in located_rows}) == 1
    locations = ", ".join(str(row.location.line) if one_file else str(row.location) for row in tool_rows)
    more = f" and {len(located_rows) - _NAMED:,} more" if len(located_rows) > _NAMED else ""
    return f" ({'lines ' if one_file and len(tool_rows) > 1 else 'line ' if one_file else ''}{locations}{more})"


def _remedy(fitting: list[str], calls: bool) -> str:
    own = "a Jinja file of your own that writes tools"
    template = f"`chat_template: {fitting[0]}` in the recipe (or {own})" if fitting else f"`chat_template` to {own}"
    plain = "" if calls else "; or leave `tools` out of the source, and the rows are trained on without them"
    return f"set {template}, or take another base model whose chat template writes them, such as {WITH_TOOLS}{plain}"
