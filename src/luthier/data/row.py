"""The shapes that flow through the data room: a record as a file has it, a row as operators see it, a batch of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from luthier.core.errors import DataError, Where
from luthier.data.cleaning.leaves import leaf, leaves, names, with_leaf
from luthier.text.messages import ExampleKind, Message, spelled_out
from luthier.text.preference import REJECTED, rejected_texts

MESSAGES: TypeAdapter[tuple[Message, ...]] = TypeAdapter(tuple[Message, ...])


def place_of(line: int, row: int | None) -> str:
    """Where a row stands, as an editor and as a spreadsheet count where the two differ: `line 17 (row 12)`."""
    return f"line {line}" if row is None else f"line {line} (row {row})"


class Record(NamedTuple):
    """One row of a file: its values by column, and where it starts."""

    values: dict[str, Any]
    file: str
    line: int
    key: str | None = None
    """What names the row where it comes from, when its line does not: `id = a17`."""
    row: int | None = None
    """Its number as a spreadsheet counts, where cells that span lines make it another one than the line's."""


class Broken(NamedTuple):
    """A row that cannot be used, and why."""

    file: str
    line: int
    problem: str
    """One sentence on what was wanted and what came."""
    field: str | None = None
    remedy: str = ""
    key: str | None = None
    """What names the row where it comes from, when its line does not."""
    left_out: bool = False
    """Whether nothing is wrong with the row, and the source leaves it out by a rule of its own; that stops no run."""
    row: int | None = None
    """Its number as a spreadsheet counts, where that is not the line's."""

    @property
    def told(self) -> str:
        """The problem, with the row's key where it has one."""
        return f"{self.problem} (the row with {self.key})" if self.key else self.problem

    @property
    def place(self) -> str:
        """The line, and the row where a spreadsheet counts another one."""
        return place_of(self.line, self.row)

    def error(self) -> DataError:
        """The same as an error."""
        return DataError(
            self.told if self.row is None else f"{self.told} (row {self.row} in a spreadsheet)",
            where=Where(file=self.file, line=self.line, field=self.field),
            remedy=self.remedy or "mend the row, or set `on_error: drop` to leave such rows out and list them",
        )


@dataclass(frozen=True, slots=True)
class Row:
    """An example on its way through the operators."""

    n: int
    """Its number in the source, from 0: the order of everything."""
    id: str
    source: str
    file: str
    line: int
    kind: ExampleKind
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    group: str | None = None
    row: int | None = None
    """Its number in its file as a spreadsheet counts, where that is not the line's."""

    @property
    def answer(self) -> str:
        """What the last turn says: the text to learn."""
        return self.messages[-1].content

    @property
    def says(self) -> str:
        """The answer with the calls that it makes: what answers have in common that are equal."""
        return spelled_out(self.messages[-1])

    @property
    def prompt(self) -> str:
        """What stands before the answer, without the system turn."""
        if len(self.messages) == 1:
            return ""
        return "\n\n".join(message.content for message in self.messages[:-1] if message.role != "system")

    def texts(self, roles: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The texts of turns with these roles, each with its field name (`messages[0].content`)."""
        for index, message in enumerate(self.messages):
            if message.role in roles and message.content:
                yield f"messages[{index}].content", message.content

    def said(self, roles: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The texts of turns with these roles, and of the answer that was not preferred: what cleans one cleans both.

        That answer stands in a column, as text or as turns (`meta.rejected`, `meta.rejected/0/content`).
        """
        yield from self.texts(roles)
        for name in REJECTED:
            if name in self.meta:
                yield from ((f"meta.{name}{path}", text) for path, text in rejected_texts(self.meta[name], roles))

    def everything(self) -> Iterator[tuple[str, str]]:
        """Every text and number of the row with its field name: turns, what was thought, calls, columns, the group.

        What is nested has a JSON pointer behind the name: `meta.ticket/notes/0`. Names in columns and calls that are
        more than a plain word come last (`meta.owners/#0`): an edit of one changes where others stand.
        """
        for index, message in enumerate(self.messages):
            for part in _PARTS:
                if text := getattr(message, part):
                    yield f"messages[{index}].{part}", text
            for at, call in enumerate(message.tool_calls):
                for path, text in leaves(call.arguments):
                    yield f"messages[{index}].tool_calls/{at}{path}", text
        if self.group:
            yield "group", self.group
        for name, value in self.meta.items():
            for path, text in leaves(value):
                yield f"meta.{name}{path}", text
        for path, text in leaves(self.tools):
            yield f"tools{path}", text
        for index, message in enumerate(self.messages):
            for at, call in enumerate(message.tool_calls):
                yield from ((f"messages[{index}].tool_calls/{at}{path}", name) for path, name in names(call.arguments))
        for column, value in self.meta.items():
            yield from ((f"meta.{column}{path}", name) for path, name in names(value))

    def text(self, name: str) -> str:
        """One text by its field name."""
        if name == "group":
            return self.group or ""
        if name.startswith("meta."):
            column, path = self._column(name)
            return leaf(self.meta[column], path)
        if name.startswith("tools/"):
            return leaf(self.tools, name.removeprefix("tools"))
        index, part = _turn(name)
        if part.startswith("tool_calls/"):
            _, at, path = part.split("/", 2)
            return leaf(self.messages[index].tool_calls[int(at)].arguments, f"/{path}")
        return str(getattr(self.messages[index], part))

    def with_text(self, name: str, text: str) -> Row:
        """The row with one text replaced."""
        if name == "group":
            return replace(self, group=text)
        if name.startswith("meta."):
            column, path = self._column(name)
            return replace(self, meta={**self.meta, column: with_leaf(self.meta[column], path, text)})
        if name.startswith("tools/"):
            return replace(self, tools=with_leaf(self.tools, name.removeprefix("tools"), text))
        index, part = _turn(name)
        update: dict[str, Any] = {part: text}
        if part.startswith("tool_calls/"):
            _, at, path = part.split("/", 2)
            calls = list(self.messages[index].tool_calls)
            arguments = with_leaf(calls[int(at)].arguments, f"/{path}", text)
            calls[int(at)] = calls[int(at)].model_copy(update={"arguments": arguments})
            update = {"tool_calls": tuple(calls)}
        message = self.messages[index].model_copy(update=update)
        return replace(self, messages=(*self.messages[:index], message, *self.messages[index + 1 :]))

    def _column(self, name: str) -> tuple[str, str]:
        """The column of `meta` that a field name means, and the pointer into it."""
        whole = name.removeprefix("meta.")
        if whole in self.meta:
            return whole, ""
        column = max((one for one in self.meta if whole.startswith(f"{one}/")), key=len)
        return column, whole[len(column) :]


_PARTS = ("content", "thinking", "name")


def _turn(name: str) -> tuple[int, str]:
    """`messages[2].content` as 2 and `content`."""
    index, _, part = name.removeprefix("messages[").partition("].")
    return int(index), part


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows in order, with the columns that operators wrote about them."""

    rows: list[Row]
    attributes: dict[str, list[Any]] = field(default_factory=dict)
    """Values by `OPERATOR.column`, one for each row."""

    def keep(self, wanted: Sequence[bool]) -> Batch:
        """The batch without the rows that are not wanted."""
        if all(wanted):
            return self
        chosen = [index for index, want in enumerate(wanted) if want]
        columns = {name: [column[index] for index in chosen] for name, column in self.attributes.items()}
        return Batch([self.rows[index] for index in chosen], columns)
