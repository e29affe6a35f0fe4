"""From a record to an example's parts: which columns speak, and in which role.

A prompt or answer is a column's name, or a template with columns in braces: `"{subject}\\n\\n{message}"`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from luthier.chat.messages import ExampleKind, Message
from luthier.chat.preference import strip_prompt_from_rejected
from luthier.core.errors import DataError, RecipeError, SourceLocation, did_you_mean
from luthier.core.events import format_counted_noun
from luthier.data.columns.headers import english_header_words
from luthier.data.columns.layouts import Layout, recognize_layout
from luthier.data.columns.media import (
    COLUMNS,
    flatten_rejected,
    format_marks,
    list_addresses,
    media_of,
    put_marks_first,
)
from luthier.data.columns.turns import cell_to_text, cell_to_turns, parse_conversation_cell
from luthier.data.row import UnusableRowError, from_json


class ExportedIdentity(NamedTuple):
    """The id and origin that a row brings with it."""

    id: str
    source: str
    file: str
    line: int


class MappedRecord(NamedTuple):
    """What a record became."""

    messages: tuple[Message, ...]
    kind: ExampleKind
    tools: tuple[dict[str, Any], ...]
    meta: dict[str, Any]
    group: str | None
    key: str | None
    own: ExportedIdentity | None = None


_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True)
class ColumnTemplate:
    """A column, or text with columns in braces."""

    pieces: tuple[tuple[str, str | None], ...]
    """Literal text and the column that follows it."""
    braced: bool = False
    """Whether its columns stand in braces, so that a list of values is written out."""

    @classmethod
    def parse(cls, text: str, field: str) -> ColumnTemplate:
        """Read a template; a text without braces is the name of a column."""
        if "{" not in text:
            return cls((("", text),))
        pieces: list[tuple[str, str | None]] = []
        literal, end = "", 0
        for match in _BRACES.finditer(text):
            literal += text[end : match.start()]
            end = match.end()
            if match[0] in ("{{", "}}"):
                literal += match[0][0]
            elif match[1]:
                pieces.append((literal, match[1]))
                literal = ""
            else:
                why = "it names no column" if match[1] == "" else "a brace stands alone"
                hint = "write columns in braces, such as {subject}, and a brace itself as {{"
                raise RecipeError(f"{text!r} is not a template: {why}", where=SourceLocation(field=field), hint=hint)
        literal += text[end:]
        return cls((*pieces, (literal, None)) if literal else tuple(pieces), braced=True)

    @property
    def columns(self) -> list[str]:
        """The columns it names."""
        return [name for _, name in self.pieces if name]

    @cached_property
    def column(self) -> str | None:
        """The column, when it is nothing else."""
        return self.pieces[0][1] if len(self.pieces) == 1 and not self.pieces[0][0] else None

    def fill(self, values: dict[str, Any], media: Mapping[str, str] | None = None) -> str:
        """The text with the record's values in their places, stripped at both ends; a list's stand behind each other,
        with commas between, and marks where a column holds media (`media`: the kind by column)."""
        parts = [
            literal + (_written_out(require_cell(values, name), name, (media or {}).get(name)) if name else "")
            for literal, name in self.pieces
        ]
        return "".join(parts).strip()


def join_as_template(columns: Sequence[str]) -> str:
    """A prompt of some columns, one after the other: the column itself, or a template."""
    return columns[0] if len(columns) == 1 else "\n\n".join(f"{{{column}}}" for column in columns)


def column_repeated_in_answer(prompt: str | None, answer: str | None) -> str | None:
    """The column that a prompt and an answer both name, where the answer holds nothing else; else None."""
    if not prompt or not answer:
        return None
    prompt_columns, answer_columns = (
        ColumnTemplate.parse(prompt, "prompt").columns,
        ColumnTemplate.parse(answer, "answer").columns,
    )
    return answer_columns[0] if answer_columns and set(answer_columns) <= set(prompt_columns) else None


def _written_out(value: Any, column: str, medium: str | None = None) -> str:
    if medium is not None:
        return format_marks(value, medium, column)
    if not _is_plain_list(value):
        return cell_to_text(value, column)
    return ", ".join(cell_to_text(entry, column) for entry in value)


def _is_plain_list(value: Any) -> bool:
    """Whether it is a list, and not one of turns."""
    return isinstance(value, list) and not any(isinstance(entry, (dict, list)) for entry in value)


def require_cell(values: dict[str, Any], column: str) -> Any:
    """A record's value; a record that lacks the column is unusable."""
    if column not in values:
        raise UnusableRowError(f"the row has no {column!r}", column, did_you_mean(column, values))
    return values[column]


class ColumnMapping:
    """Converts every record of a source to an example by its column layout."""

    def __init__(self, layout: Layout, *, system: str | None, group: str | None, key: str | None) -> None:
        self.layout = layout
        self._prompt = ColumnTemplate.parse(layout.prompt, "prompt") if layout.prompt else None
        self._answer = ColumnTemplate.parse(layout.answer, "answer") if layout.answer else None
        self._system = system
        self._group = group
        self._key = key
        self._missing: frozenset[str] = frozenset()
        self._media: dict[str, str] = {}
        spoken = [layout.messages, layout.system_column, layout.tools]
        for template in (self._prompt, self._answer):
            spoken += template.columns if template else []
        self.spoken = frozenset(name for name in spoken if name)
        """Columns that become turns; all others stay in `meta`."""
        whole = [template.column for template in (self._prompt, self._answer) if template]
        self._showing = [column for column in (layout.messages, *whole) if column]
        """Columns whose turns may show or play something."""

    @property
    def columns(self) -> dict[str, str]:
        """Every column that the mapping names, with the setting that names it."""
        layout = self.layout
        named = {
            layout.messages: "messages",
            layout.system_column: "system_column",
            self._group: "group",
            self._key: "id",
        }
        found = {column: field for column, field in named.items() if column}
        for template, field in ((self._prompt, "prompt"), (self._answer, "answer")):
            found.update(dict.fromkeys(template.columns if template else [], field))
        return found

    def without(self, missing: Iterable[str]) -> ColumnMapping:
        """The same, where cells with one of some values are read as empty ones."""
        self._missing = frozenset(missing)
        return self

    def with_media(self, columns: Mapping[str, str]) -> ColumnMapping:
        """The same, where these columns hold media, each of a kind."""
        self._media = dict(columns)
        return self

    def parts(self, values: dict[str, Any]) -> MappedRecord:
        """Map one record; `UnusableRowError` says why it cannot be."""
        if self._missing:
            values = {name: "" if self._is_missing(value) else value for name, value in values.items()}
        messages = self._with_system(self._turns(values), values)
        tools = self._tools(values)
        own = exported_identity_of(values) if self.layout.own else None
        if own:
            _refuse_edited(values, messages[-1].content)
        meta = (
            exported_meta_of(values)
            if own
            else {name: value for name, value in values.items() if name not in self.spoken}
        )
        values = {**meta, **values} if own else values
        meta = self._with_media(values, meta)
        if self._media:
            messages = put_marks_first(messages, {column: meta.get(column, []) for column in COLUMNS.values()})
        meta = strip_prompt_from_rejected(messages, meta)
        group = cell_to_text(require_cell(values, self._group), self._group) if self._group else None
        key = cell_to_text(require_cell(values, self._key), self._key) if self._key else None
        return MappedRecord(messages, _kind(messages, tools), tools, meta, group or None, key, own)

    def _is_missing(self, value: Any) -> bool:
        return isinstance(value, str) and value.strip() in self._missing

    def try_parts(self, values: dict[str, Any]) -> MappedRecord | None:
        """Map one record, or nothing when it cannot be."""
        try:
            return self.parts(values)
        except UnusableRowError:
            return None

    def _turns(self, values: dict[str, Any]) -> tuple[Message, ...]:
        if column := self.layout.messages:
            return parse_conversation_cell(require_cell(values, column), column)
        turns = self._spoken_by(self._prompt, values, "user") if self._prompt else ()
        return turns + (self._spoken_by(self._answer, values, "assistant") if self._answer else ())

    def _spoken_by(self, template: ColumnTemplate, values: dict[str, Any], role: Any) -> tuple[Message, ...]:
        if (column := template.column) is None or column in self._media:
            return (Message(role=role, content=template.fill(values, self._media)),)
        value = require_cell(values, column)
        if _is_plain_list(value) and template.braced:
            value = template.fill(values)
        elif role == "assistant" and _is_plain_list(value) and value:
            value = _one_answer(value, column)
        return cell_to_turns(value, role, column)

    def choices(self, rows: Sequence[dict[str, Any]]) -> str:
        """What is said of rows of which one of several accepted answers is learnt; empty where there are none."""
        column = self._answer.column if self._answer and not self._answer.braced else None
        some = sum(_is_plain_list(row.get(column)) and _differ(row[column]) for row in rows) if column else 0
        if not some or not _are_accepted(column or ""):
            return ""
        row_share = f"{some} of the first {format_counted_noun(len(rows), 'row')} {'has' if some == 1 else 'have'}"
        return f"{row_share} several accepted answers in {column!r}: the first is learnt, the others are not"

    def _with_media(self, values: dict[str, Any], meta: dict[str, Any]) -> dict[str, Any]:
        """The columns that are kept, with the addresses of what the turns show and play."""
        found: dict[str, list[str]] = {}
        for column in self._showing:
            if column == self.layout.messages or isinstance(values.get(column), list):
                for name, listed in media_of(values[column], column, {*values, *self._media.values()}).items():
                    found.setdefault(name, []).extend(listed)
        if twice := next((name for name in found if meta.get(name)), None):
            raise UnusableRowError(f"its turns hold {twice}, and so does its column {twice!r}", twice)
        kept = flatten_rejected(meta, found)
        for column, kind in self._media.items():
            if column not in values:
                continue
            addresses = list_addresses(values[column], kind, column)
            kept.pop(column, None)
            found[COLUMNS[kind]] = [*found.get(COLUMNS[kind], []), *addresses]
        return {**kept, **found}

    def _with_system(self, turns: tuple[Message, ...], values: dict[str, Any]) -> tuple[Message, ...]:
        if any(turn.role == "system" for turn in turns):
            return turns
        column = self.layout.system_column
        text = (cell_to_text(values.get(column), column) if column else "") or self._system
        return (Message(role="system", content=text), *turns) if text else turns

    def _tools(self, values: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        column = self.layout.tools
        prompt_value = values.get(self.layout.prompt or "")
        input_tools = (
            prompt_value.get("tools") if isinstance(prompt_value, dict) else None
        )  # OpenAI's preference rows: in `input`
        found = values.get(column) if column else input_tools
        if isinstance(found, str):
            found = from_json(found, column or "") if found.strip() else None
        if found is not None and not (isinstance(found, list) and all(isinstance(tool, dict) for tool in found)):
            raise UnusableRowError("expected a list of tool schemas", column)
        return tuple(found or ())


_ACCEPTED = frozenset(
    ["answer", "answers", "ideal", "ideals", "reference", "references", "accepted", "alias", "aliases"]
)
"""Words by which a list is one of answers that are all right, of which a model need give one."""


def _are_accepted(column: str) -> bool:
    return not _ACCEPTED.isdisjoint(english_header_words(column))


def _differ(values: Sequence[Any]) -> bool:
    return len(set(map(str, values))) > 1


def _one_answer(values: Sequence[Any], column: str) -> Any:
    """The first of several accepted answers; an error for several values that are told of a row together."""
    if _differ(values) and not _are_accepted(column):
        what = f"expected one answer, got a list of {len(values)}, such as {str(values[0])[:40]!r}"
        hint = (
            f'write `answer: "{{{column}}}"` to learn all of a row together, with commas between, or give one a row; '
            "of a column called `answers`, the first is learnt"
        )
        raise UnusableRowError(what, column, hint)
    return values[0]


_ID = re.compile(r"[0-9a-f]{16}")


def exported_identity_of(values: dict[str, Any]) -> ExportedIdentity:
    """The id and origin of a row that Luthier gave out."""
    origin = _object(values, "origin") if "origin" in values else _place_in_table(values)
    name, location = values["id"], (origin.get("source"), origin.get("file"), origin.get("line"))
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise UnusableRowError(f"expected an id of 16 hexadecimal digits, got {name!r}", "id")
    if [type(value) for value in location] != [str, str, int]:
        raise UnusableRowError("expected an origin with source, file and line", "origin")
    return ExportedIdentity(name, *location)  # type: ignore[arg-type]  # their types were just seen


def _place_in_table(values: dict[str, Any]) -> dict[str, Any]:
    line = str(values.get("line"))
    return {**values, "line": int(line) if line.isdecimal() else line}


def _refuse_edited(values: dict[str, Any], answer: str) -> None:
    """Of a table's row, what stands for reading must say what the row says: a correction there would be lost."""
    for column in ("label", "answer") if "answer" in values else ():
        shown = str(values[column] or "")
        if shown and _plainly(shown) != _plainly(answer):
            what = f"`{column}` says {shown[:40]!r} and `messages` {answer[:40]!r}"
            hint = f"correct `messages`, which is the row, or set `prompt: prompt` and `answer: {column}`"
            raise UnusableRowError(what, column, hint)


def _plainly(cell: str) -> str:
    """Without what a spreadsheet may change, and the mark before what could be a formula."""
    return " ".join(cell.split()).removeprefix("'")


def exported_meta_of(values: dict[str, Any]) -> dict[str, Any]:
    """The columns that a row kept when Luthier gave it out."""
    return _object(values, "meta")


def _object(values: dict[str, Any], column: str) -> dict[str, Any]:
    value = require_cell(values, column)
    found = from_json(value, column) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise UnusableRowError("expected an object", column)
    return found


def _kind(messages: Sequence[Message], tools: Sequence[Any]) -> ExampleKind:
    if tools or any(message.tool_calls for message in messages):
        return "tool"
    return "chat" if any(message.role == "user" for message in messages) else "completion"


def columns_of(rows: Iterable[dict[str, Any]]) -> list[str]:
    """All columns that some rows have, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def decide_mapping(
    requested_layout: Layout,
    rows: Sequence[dict[str, Any]],
    file: str,
    *,
    system: str | None,
    group: str | None,
    key: str | None,
    written: Layout | None = None,
) -> ColumnMapping:
    """The mapping that was asked for, that of a source which writes the columns itself (`written`), or the layout that
    the rows have; `DataError` when none fits."""
    columns = columns_of(rows)
    layout = requested_layout
    if not (requested_layout.prompt or requested_layout.answer or requested_layout.messages):
        found = written or recognize_layout(columns, rows)
        if found is None:
            names = ", ".join(columns[:12])
            hint = f"set `prompt:` and `answer:`, or `turns:` where a row is one message, to columns of {names}"
            raise DataError(
                "cannot tell which columns are the prompt and the answer", where=SourceLocation(file=file), hint=hint
            )
        layout = found._replace(
            system_column=requested_layout.system_column or found.system_column,
            tools=requested_layout.tools or found.tools,
        )
    mapping = ColumnMapping(layout, system=system, group=group, key=key)
    if layout.own:
        columns += columns_of(parts.meta for row in rows if (parts := mapping.try_parts(row)))
    for column, field in mapping.columns.items():
        if column not in columns:
            raise missing_column_error(column, columns, SourceLocation(file=file, line=1, field=field))
    return mapping


def missing_column_error(column: str, columns: Sequence[str], where: SourceLocation) -> DataError:
    """That a column is named which no row has, with those that are like it."""
    hint = did_you_mean(column, columns)
    if column.partition(".")[0] in columns:
        hint = "`flatten: true` makes columns of objects inside (JSON and JSON lines)"
    shown = ", ".join(columns[:12]) + (", …" if len(columns) > 12 else "")
    return DataError(f"there is no column {column!r}; the columns are {shown}", where=where, hint=hint)
