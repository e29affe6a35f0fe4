"""Rows with tools need a chat template that writes them: with any other, no call would be trained on, unseen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from luthier.core.artifact import Artifact
from luthier.core.counted import counted
from luthier.core.errors import ModelError, Where
from luthier.core.step import Outlook
from luthier.models.chat_template import ToolPlaces, fitting_templates, tool_places
from luthier.models.foresight import tokenizer_of, tool_places_ahead
from luthier.models.load import base_folder, is_endpoint, name_of
from luthier.text.dataset import OUTLINED, examples_ahead, has_split, rows_with_tools

WITH_TOOLS = "qwen2.5-0.5b-instruct"
"""A model of the catalogue whose own chat template writes tools."""
_NAMED = 4
"""So many rows are named."""


class ToolRow(NamedTuple):
    """A row that has tools on offer, or in which the assistant calls one."""

    place: Where
    offers: bool
    calls: bool


def refuse_tool_rows(data: Artifact, model: Artifact) -> None:
    """`ModelError` where training rows have tools that the model's chat template has no place for."""
    if is_endpoint(model) or all(places := tool_places(base_folder(model))):
        return
    _refuse(_rows(data), places, name_of(model), fitting_templates(base_folder(model)))


def refuse_tool_rows_ahead(outlook: Outlook) -> None:
    """The same before a training: of the data set when it is made, else of the rows of its source that were looked
    at."""
    places = tool_places_ahead(outlook)
    if places is None or all(places):
        return
    made, model = outlook.inputs.get("data"), outlook.inputs.get("model")
    rows = _rows(made) if made is not None else _rows_ahead(outlook)
    name = name_of(model) if model is not None else "the base model"
    looked = "" if made is not None else " of those looked at"
    _refuse(rows, places, name, fitting_templates(tokenizer_of(outlook)), looked)


def _rows(data: Artifact) -> Iterator[ToolRow]:
    """The training rows of a data set that have tools, in source order."""
    if not has_split(data, "train"):
        return
    for row in rows_with_tools(data, "train"):
        offers = bool(json.loads(row["tools"]))
        calls = any(turn.get("tool_calls") for turn in json.loads(row["messages"]))
        if offers or calls:
            yield ToolRow(Where(file=row["file"], line=row["line"]), offers, calls)


def _rows_ahead(outlook: Outlook) -> Iterator[ToolRow]:
    """The rows that were looked at and have tools."""
    for example in examples_ahead(outlook, "train", OUTLINED):
        offers, calls = bool(example.tools), any(message.tool_calls for message in example.messages)
        if offers or calls:
            yield ToolRow(Where(file=example.origin.file, line=example.origin.line), offers, calls)


def _refuse(rows: Iterable[ToolRow], places: ToolPlaces, name: str, fitting: list[str], looked: str = "") -> None:
    found = [row for row in rows if (row.offers and not places.offers) or (row.calls and not places.calls)]
    if not found:
        return
    offers, calls = any(row.offers for row in found), any(row.calls for row in found)
    lacking = [
        *(["tools on offer"] if offers and not places.offers else []),
        *(["calls of tools"] if calls and not places.calls else []),
    ]
    who = f"this row and {counted(len(found) - 1, 'other')}{looked} have" if len(found) > 1 else "this row has"
    what = f"{who} tools{_listed(found)}, and the chat template of {name} has no place for {' or '.join(lacking)}"
    raise ModelError(f"{what}: they would not be trained on", where=found[0].place, remedy=_remedy(fitting, calls))


def _listed(found: list[ToolRow]) -> str:
    """Where the first of the others are, in brackets: lines where all are in one file."""
    others = found[1:_NAMED]
    if not others:
        return ""
    one_file = len({row.place.file for row in found}) == 1
    places = ", ".join(str(row.place.line) if one_file else str(row.place) for row in others)
    more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
    return f" ({'lines ' if one_file and len(others) > 1 else 'line ' if one_file else ''}{places}{more})"


def _remedy(fitting: list[str], calls: bool) -> str:
    own = "a Jinja file of your own that writes tools"
    template = f"`chat_template: {fitting[0]}` in the recipe (or {own})" if fitting else f"`chat_template` to {own}"
    plain = "" if calls else "; or leave `tools` out of the source, and the rows are trained on without them"
    return f"set {template}, or take another base model whose chat template writes them, such as {WITH_TOOLS}{plain}"
