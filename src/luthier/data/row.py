"""Rows: a record of a source, a row, a batch of rows, pairs of answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, TypeAdapter

from luthier.chat.messages import Example, ExampleKind, Message, answer_of, prompt_of, render_message_text
from luthier.chat.preference import REJECTED, column_number_of, desirable_label_of, rejected_texts
from luthier.core.errors import DataError, SourceLocation, did_you_mean
from luthier.core.hashing import digest_of
from luthier.data.cleaning.leaves import iter_leaves, iter_unusual_key_names, replace_text_at_pointer, text_at_pointer


class UnusableRowError(Exception):
    """A row that cannot become an example: what was wanted, what came."""

    def __init__(self, problem: str, field: str | None = None, hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.field = field
        self.hint = hint


def from_json(text: str, field: str) -> Any:
    """JSON inside a cell."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableRowError("expected JSON in this cell", field) from error


MESSAGES: TypeAdapter[tuple[Message, ...]] = TypeAdapter(tuple[Message, ...])


def format_row_location(line: int, row: int | None) -> str:
    """Where a row stands, as an editor and as a spreadsheet count where the two differ: `line 17 (row 12)`."""
    return f"line {line}" if row is None else f"line {line} (row {row})"


class SourceRecord(NamedTuple):
    """One row of a file: its values by column, and where it starts."""

    values: dict[str, Any]
    file: str
    line: int
    key: str | None = None
    """What names the row where it comes from, when its line does not: `id = a17`."""
    row: int | None = None
    """Its number as a spreadsheet counts, where cells that span lines make it another one than the line's."""


class BrokenRow(NamedTuple):
    """A row that cannot be used, and why."""

    file: str
    line: int
    problem: str
    """One sentence on what was wanted and what came."""
    field: str | None = None
    hint: str = ""
    key: str | None = None
    """What names the row where it comes from, when its line does not."""
    left_out: bool = False
    """Whether nothing is wrong with the row, and the source leaves it out by a rule of its own; that stops no run."""
    row: int | None = None
    """Its number as a spreadsheet counts, where that is not the line's."""

    @property
    def message(self) -> str:
        """The problem, with the row's key where it has one."""
        return f"{self.problem} (the row with {self.key})" if self.key else self.problem

    @property
    def location(self) -> str:
        """The line, and the row where a spreadsheet counts another one."""
        return format_row_location(self.line, self.row)

    def error(self) -> DataError:
        """The same as an error."""
        return DataError(
            self.message if self.row is None else f"{self.message} (row {self.row} in a spreadsheet)",
            where=SourceLocation(file=self.file, line=self.line, field=self.field),
            hint=self.hint or "mend the row, or set `on_error: drop` to leave such rows out and list them",
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
        return render_message_text(self.messages[-1])

    @property
    def prompt(self) -> str:
        """What stands before the answer, without the system turn."""
        if len(self.messages) == 1:
            return ""
        return "\n\n".join(message.content for message in self.messages[:-1] if message.role != "system")

    @property
    def media_key(self) -> str:
        """The digests of the pictures and sounds of all turns, in order; empty where there are none."""
        return " ".join(media.digest for message in self.messages for media in message.media)

    def texts(self, roles: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The texts of turns with these roles, each with its field name (`messages[0].content`)."""
        for index, message in enumerate(self.messages):
            if message.role in roles and message.content:
                yield f"messages[{index}].content", message.content

    def texts_with_rejected(self, roles: Sequence[str]) -> Iterator[tuple[str, str]]:
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
                for path, text in iter_leaves(call.arguments):
                    yield f"messages[{index}].tool_calls/{at}{path}", text
        if self.group:
            yield "group", self.group
        for name, value in self.meta.items():
            for path, text in iter_leaves(value):
                yield f"meta.{name}{path}", text
        for path, text in iter_leaves(self.tools):
            yield f"tools{path}", text
        for index, message in enumerate(self.messages):
            for at, call in enumerate(message.tool_calls):
                yield from (
                    (f"messages[{index}].tool_calls/{at}{path}", name)
                    for path, name in iter_unusual_key_names(call.arguments)
                )
        for column, value in self.meta.items():
            yield from ((f"meta.{column}{path}", name) for path, name in iter_unusual_key_names(value))

    def text(self, name: str) -> str:
        """One text by its field name."""
        if name == "group":
            return self.group or ""
        if name.startswith("meta."):
            column, path = self._column(name)
            return text_at_pointer(self.meta[column], path)
        if name.startswith("tools/"):
            return text_at_pointer(self.tools, name.removeprefix("tools"))
        index, part = _turn(name)
        if part.startswith("tool_calls/"):
            _, at, path = part.split("/", 2)
            return text_at_pointer(self.messages[index].tool_calls[int(at)].arguments, f"/{path}")
        return str(getattr(self.messages[index], part))

    def with_text(self, name: str, text: str) -> Row:
        """The row with one text replaced."""
        if name == "group":
            return replace(self, group=text)
        if name.startswith("meta."):
            column, path = self._column(name)
            return replace(self, meta={**self.meta, column: replace_text_at_pointer(self.meta[column], path, text)})
        if name.startswith("tools/"):
            return replace(self, tools=replace_text_at_pointer(self.tools, name.removeprefix("tools"), text))
        index, part = _turn(name)
        update: dict[str, Any] = {part: text}
        if part.startswith("tool_calls/"):
            _, at, path = part.split("/", 2)
            calls = list(self.messages[index].tool_calls)
            arguments = replace_text_at_pointer(calls[int(at)].arguments, f"/{path}", text)
            calls[int(at)] = calls[int(at)].model_copy(update={"arguments": arguments})
            update = {"tool_calls": tuple(calls)}
        message = self.messages[index].model_copy(update=update)
        return replace(self, messages=(*self.messages[:index], message, *self.messages[index + 1 :]))

    def _column(self, name: str) -> tuple[str, str]:
        """The column of `meta` that a field name means, and the pointer into it."""
        whole = name.removeprefix("meta.")
        if whole in self.meta:
            return whole, ""
        column = max((entry for entry in self.meta if whole.startswith(f"{entry}/")), key=len)
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

    def keep(self, mask: Sequence[bool]) -> Batch:
        """The batch without the rows that are not wanted."""
        if all(mask):
            return self
        chosen = [index for index, want in enumerate(mask) if want]
        columns = {name: [column[index] for index in chosen] for name, column in self.attributes.items()}
        return Batch([self.rows[index] for index in chosen], columns)


def build_preference_row(
    prompt: tuple[Message, ...], chosen: str, meta: Mapping[str, Any], origin: tuple[str, str, int]
) -> Row:
    """A row whose answer is the chosen one; `meta` has the rejected one, and `origin` is source, file and line."""
    source, file, line = origin
    messages = (*prompt, Message(role="assistant", content=chosen))
    name = digest_of([[message.model_dump(mode="json") for message in messages], meta["rejected"]])[:16]
    return Row(
        n=line - 1, id=name, source=source, file=file, line=line, kind="preference", messages=messages, meta=dict(meta)
    )


Take = Literal["extremes", "all"]


class RankedPair(NamedTuple):
    """A row whose answer is better than another row's, and by how much."""

    row: Example
    other: Example
    margin: float


class UnpairedRow(NamedTuple):
    """A row of which no pair is made, and why."""

    row: Example
    why: str


def pairs_by_rating(
    rows: Sequence[Example], column: str, margin: float, take: Take
) -> Iterator[RankedPair | UnpairedRow]:
    """Pairs among the answers to each prompt, in the order of the rows: the highest with the lowest, or all that are
    apart by `margin`; and each row that is in no pair."""
    groups: dict[tuple[Message, ...], list[tuple[Example, float]]] = {}
    for row in rows:
        if (rating := rating_of(row, column)) is None:
            yield UnpairedRow(row, f"it has no rating in {column!r}")
        elif not answer_of(row).strip():
            yield UnpairedRow(row, "its answer is empty")
        else:
            groups.setdefault(prompt_of(row), []).append((row, rating))
    for rated in groups.values():
        ranked_pairs = list(_among(rated, margin, take))
        yield from ranked_pairs
        used = {row.id for ranked_pair in ranked_pairs for row in (ranked_pair.row, ranked_pair.other)}
        yield from (UnpairedRow(row, _why(rated, margin)) for row, _ in rated if row.id not in used)


def rating_of(row: Example, column: str) -> float | None:
    """The number in a column; 1 and 0 for a yes and a no."""
    rating = column_number_of(row, column)
    if rating is None and (is_preferred := desirable_label_of(row, column)) is not None:
        return float(is_preferred)
    return rating


def require_rating_column(rows: Sequence[Example], column: str) -> None:
    """`DataError` when no row has a rating."""
    if not any(rating_of(row, column) is not None for row in rows):
        known = {name for row in rows[:1000] for name in row.meta}
        hint = did_you_mean(column, known)
        raise DataError(f"no row has a rating in {column!r}", where=SourceLocation(field="rating"), hint=hint)


def _among(rated: Sequence[tuple[Example, float]], margin: float, take: Take) -> Iterator[RankedPair]:
    ordered = sorted(rated, key=lambda entry: -entry[1])
    chosen = [(ordered[0], ordered[-1])] if take == "extremes" else _all(ordered)
    for (row, high), (other, low) in chosen:
        if high - low >= margin and high > low and answer_of(row).strip() != answer_of(other).strip():
            yield RankedPair(row, other, high - low)


def _all(ordered: Sequence[tuple[Example, float]]) -> list[tuple[tuple[Example, float], tuple[Example, float]]]:
    return [(entry, other) for at, entry in enumerate(ordered) for other in ordered[at + 1 :]]


def _why(rated: Sequence[tuple[Example, float]], margin: float) -> str:
    if len(rated) == 1:
        return "no other answer to its prompt was rated"
    ratings = [rating for _, rating in rated]
    apart = max(ratings) - min(ratings)
    return "a tie: all answers to its prompt are rated alike" if not apart else f"no other is {margin:g} points apart"


MOST_CHARACTERS = 16 << 20
"""Characters of one batch; a single row that is longer is a batch of its own."""
_OTHER = 8
"""What a number, a date or nothing counts as."""
Item = TypeVar("Item")


def count_characters(value: object) -> int:
    """About how many characters a value holds, at any depth."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, (list, tuple)):
        return sum(map(count_characters, value))
    if isinstance(value, dict):
        return sum(map(count_characters, value.values()))
    if isinstance(value, BaseModel):
        return sum(map(count_characters, vars(value).values()))
    return _OTHER


def count_row_characters(row: Row) -> int:
    """About how many characters a row holds."""
    message_chars = sum(
        len(message.content) + len(message.thinking) + count_characters(message.tool_calls) + _OTHER
        for message in row.messages
    )
    return message_chars + sum(map(count_characters, row.meta.values())) + count_characters(row.tools)


def count_record_characters(record: SourceRecord | BrokenRow) -> int:
    """About how many characters a row holds as a file has it."""
    return count_characters(record.values) if isinstance(record, SourceRecord) else len(record.problem)


def chunk_by_size(
    items: Iterable[Item], most: int, size: Callable[[Item], int], most_characters: int = MOST_CHARACTERS
) -> Iterator[list[Item]]:
    """Items in lists, each full at `most` of them or at so many characters, whichever comes first."""
    held: list[Item] = []
    characters = 0
    for item in items:
        held.append(item)
        characters += size(item)
        if len(held) >= most or characters >= most_characters:
            yield held
            held, characters = [], 0
    if held:
        yield held


def take_first_chunk(items: Iterable[Item], most: int, size: Callable[[Item], int]) -> list[Item]:
    """The first items, as many as one list of `chunk_by_size` holds; an iterator goes on behind them."""
    return next(chunk_by_size(items, most, size), [])
