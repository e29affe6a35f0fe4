"""Gather rows that are single messages into conversations.

Few conversations are held in memory. A conversation ends when `SILENT` rows pass without a message (fewer rows where
they are very long) or when the file ends; the last one of a file may continue in the next file. Input that is nearly
grouped by conversation is read in one pass, however large the file is. A row that arrives after its conversation has
ended is reported as broken, so no conversation is returned twice.

The turns of a support conversation have the support team as the assistant.
"""

from __future__ import annotations

import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luthier.core.component import add_field_descriptions, refuse_unknown_settings
from luthier.core.errors import did_you_mean
from luthier.core.events import format_counted_noun
from luthier.data.columns.layouts import Layout
from luthier.data.columns.mapping import require_cell
from luthier.data.columns.turns import ROLES, cell_to_text
from luthier.data.row import (
    MOST_CHARACTERS,
    BrokenRow,
    SourceRecord,
    UnusableRowError,
    count_record_characters,
    format_row_location,
)

SILENT = 10_000
"""A conversation is over when none of so many rows behind its last one is of it."""
_ZONE = re.compile(r" (?=[+-]\d)| (?:UTC|GMT)\Z")
"""What databases write between a time and its zone, or for the zone of a time that is UTC."""
_APART = (
    f"sort the rows by conversation: one is over when none of {SILENT:,} rows is of it (sooner where rows are very "
    "long), or with its file; conversations of several files need different names"
)


class TurnColumns(BaseModel):
    """Which columns tell the conversation, the speaker and the words, where every row is one message."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    conversation: str = Field(min_length=1)
    """The column that says to which conversation a message belongs."""
    role: str = Field(default="role", min_length=1)
    """The column that says who speaks: user (customer, human, …), assistant (agent, bot, gpt, …) or system."""
    content: str = Field(default="content", min_length=1)
    """The column with what is said."""
    order: str | None = None
    """The column by which the messages of a conversation are put in order: numbers, or times such as
    `2026-05-01T10:00:00Z`; left out, they stand as in the file."""

    @model_validator(mode="before")
    @classmethod
    def _known_settings(cls, value: object) -> object:
        return refuse_unknown_settings(cls, value)

    @property
    def layout(self) -> Layout:
        """What the gathered rows look like: the turns stand where the words stood."""
        note = f"conversations of one message a row (columns {self.conversation!r}, {self.role!r}, {self.content!r})"
        return Layout(messages=self.content, note=note)

    def gathered(
        self, found: Iterable[SourceRecord | BrokenRow], say: Callable[[str], None]
    ) -> Iterator[SourceRecord | BrokenRow]:
        """Conversations as records, each at the place of its first row; `say` tells how many, and what was left out."""
        return _Gathering(self).read(found, say)


class _Talk:
    """A conversation that goes on."""

    def __init__(self) -> None:
        self.rows: list[SourceRecord] = []
        self.characters = 0
        self.last = 0
        """The number of its last row."""


class _Gathering:
    """The conversations that go on, the one that was silent longest first."""

    def __init__(self, turns: TurnColumns) -> None:
        from luthier.data.engine.occurrences import FirstValueByKey

        self._turns = turns
        self._held: OrderedDict[str, _Talk] = OrderedDict()
        self._characters = 0
        self._begun = FirstValueByKey()
        self._messages = self._talks = self._left = 0

    def read(
        self, found: Iterable[SourceRecord | BrokenRow], say: Callable[[str], None]
    ) -> Iterator[SourceRecord | BrokenRow]:
        file = None
        for number, record in enumerate(found):
            if record.file != file:
                yield from self._over(lambda: len(self._held) > 1)  # the last one may go on in the next file
                file = record.file
            refused = record if isinstance(record, BrokenRow) else self._take(record, number)
            if refused is not None:
                yield refused
            yield from self._over(partial(self._is_full, number))
        yield from self._over(lambda: bool(self._held))
        if self._talks:
            makes = "makes" if self._messages == 1 else "make"
            say(
                f"{format_counted_noun(self._messages, 'message')} {makes} "
                f"{format_counted_noun(self._talks, 'conversation')}"
            )
        if self._left:
            are = "is left out: it stands" if self._left == 1 else "are left out: they stand"
            location = "before a conversation's first question or behind its last answer"
            say(f"{format_counted_noun(self._left, 'message')} {are} {location}")

    def _take(self, record: SourceRecord, number: int) -> BrokenRow | None:
        """Put a row into its conversation, or say why it cannot be."""
        try:
            name = cell_to_text(require_cell(record.values, self._turns.conversation), self._turns.conversation)
        except UnusableRowError as error:
            return _broken(record, error)
        if not name:
            return BrokenRow(record.file, record.line, "the row names no conversation", self._turns.conversation)
        if name not in self._held and (began := self._begun.value(name, record.line)) is not None:
            what = f"conversation {name!r}, which began on line {began}, was over before this row of it"
            return BrokenRow(record.file, record.line, what, self._turns.conversation, _APART)
        talk = self._held.setdefault(name, _Talk())
        self._held.move_to_end(name)
        size = count_record_characters(record)
        talk.rows.append(record)
        talk.characters += size
        talk.last = number
        self._characters += size
        return None

    def _is_full(self, number: int) -> bool:
        """Whether the one that was silent longest is over."""
        silent = number - next(iter(self._held.values())).last if self._held else 0
        return silent >= SILENT or (self._characters > MOST_CHARACTERS and len(self._held) > 1)

    def _over(self, condition: Callable[[], bool]) -> Iterator[SourceRecord | BrokenRow]:
        """End conversations, the one that was silent longest first, while that is wanted."""
        while condition():
            _, talk = self._held.popitem(last=False)
            self._characters -= talk.characters
            yield self._whole(talk.rows)

    def _whole(self, rows: Sequence[SourceRecord]) -> SourceRecord | BrokenRow:
        """One conversation as a record, or why it cannot be used."""
        first = rows[0]
        name = cell_to_text(first.values[self._turns.conversation], self._turns.conversation)
        if sum(map(count_record_characters, rows)) > MOST_CHARACTERS:
            what = f"conversation {name!r} has more than {MOST_CHARACTERS:,} characters"
            hint = f"check that {self._turns.conversation!r} is what tells conversations apart"
            return BrokenRow(first.file, first.line, what, self._turns.conversation, hint)
        messages = []
        for row in rows:
            try:
                messages.append(self._said(row))
            except UnusableRowError as error:
                return _broken(
                    row,
                    error,
                    f", in conversation {name!r}, which begins on {format_row_location(first.line, first.row)}",
                )
        messages.sort(key=lambda message: message.at)
        saids, left = _asked_and_answered(_merged(messages))
        self._messages, self._talks, self._left = self._messages + len(rows), self._talks + 1, self._left + left
        values = self._columns([message.row.values for message in messages])
        values[self._turns.content] = [{"role": turn.role, "content": turn.content} for turn in saids]
        return SourceRecord(values, first.file, first.line, first.key, first.row)

    def _said(self, row: SourceRecord) -> _Said:
        """One message; `UnusableRowError` for what is none."""
        turns = self._turns
        name = cell_to_text(require_cell(row.values, turns.role), turns.role).strip()
        if (role := ROLES.get(name.lower())) is None:
            hint = did_you_mean(name.lower(), ("user", "customer", "human", "assistant", "agent", "bot", "system"))
            raise UnusableRowError(f"role {name!r} is unknown", turns.role, hint)
        content = require_cell(row.values, turns.content)
        content = content if isinstance(content, list) else cell_to_text(content, turns.content).strip()
        at = parse_message_time(require_cell(row.values, turns.order), turns.order) if turns.order else 0
        return _Said(row, at, role, content)

    def _columns(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The other columns: what a conversation has one of as it is, else all in the order of the messages."""
        found: dict[str, Any] = {}
        for name in dict.fromkeys(name for values in rows for name in values):
            values = [row.get(name) for row in rows]
            filled = [value for value in values if value not in (None, "")]
            found[name] = values if any(value != filled[0] for value in filled) else next(iter(filled), values[0])
        found.pop(self._turns.role, None)
        return found


class _Said(NamedTuple):
    row: SourceRecord
    at: float
    role: str
    content: Any
    """Text, or a list of parts."""
    messages: int = 1
    """The messages that it was made of."""


def _merged(messages: Sequence[_Said]) -> list[_Said]:
    """What one side says in a row is one turn; what is empty is none."""
    turns: list[_Said] = []
    for message in messages:
        if not message.content:
            continue
        last = turns[-1] if turns else None
        if (
            last
            and last.role == message.role != "tool"
            and isinstance(last.content, str)
            and isinstance(message.content, str)
        ):
            turns[-1] = last._replace(content=f"{last.content}\n\n{message.content}", messages=last.messages + 1)
        else:
            turns.append(message)
    return turns


def _asked_and_answered(turns: Sequence[_Said]) -> tuple[Sequence[_Said], int]:
    """From the first question to the last answer, with system turns before; how many messages are left out.

    Without a question that is answered all is kept, and the reader of rows says why it cannot be learnt.
    """
    roles = [turn.role for turn in turns]
    if "user" not in roles or "assistant" not in roles[(begin := roles.index("user")) :]:
        return turns, 0
    end = len(roles) - roles[::-1].index("assistant")
    saids = [*(turn for turn in turns[:begin] if turn.role == "system"), *turns[begin:end]]
    return saids, sum(turn.messages for turn in turns) - sum(turn.messages for turn in saids)


def parse_message_time(value: Any, field: str) -> float:
    """A number, or a time as seconds, for the order of messages; `UnusableRowError` for what is neither."""
    text = cell_to_text(value, field).strip()
    if isinstance(value, int):
        return value
    try:
        if math.isfinite(number := float(text)):
            return number
    except ValueError:
        pass
    try:
        time = datetime.fromisoformat(_ZONE.sub("", text))
    except ValueError as error:
        what = f"expected a number or a time such as 2026-05-01T10:00:00Z, got {text!r}"
        raise UnusableRowError(what, field, "write it so, or leave `order` out where rows stand in order") from error
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _broken(row: SourceRecord, error: UnusableRowError, more: str = "") -> BrokenRow:
    return BrokenRow(row.file, row.line, error.problem + more, error.field, error.hint, row.key, row=row.row)


_FREE = frozenset(
    {"gmail.com", "googlemail.com", "outlook.com", "hotmail.com", "live.com", "yahoo.com", "icloud.com", "aol.com"}
    | {"gmx.de", "gmx.net", "web.de", "mail.ru", "yandex.ru", "qq.com", "163.com", "proton.me", "protonmail.com"}
)
"""Domains that strangers share: they tell nothing of a desk."""


class ThreadMessage(NamedTuple):
    """What somebody said once."""

    who: str
    text: str
    is_support: bool
    """Whether it was one of those who answer."""


class ConversationTurns(NamedTuple):
    """The turns of a conversation."""

    messages: list[dict[str, str]]
    left_out: int
    """Speeches of the desk before the first question, and of others behind the last answer."""


class ThreadParticipants(NamedTuple):
    """Who wrote in one thread."""

    began: str
    answered: frozenset[str]
    """All who wrote behind the first."""


def build_conversation(speeches: Iterable[ThreadMessage]) -> ConversationTurns:
    """Turns from the first question to the last answer; what one side says in a row is one turn.

    Without an answer (or without a question) all is kept, and the reader of rows says why it cannot be learnt.
    """
    turns: list[tuple[bool, list[str]]] = []
    for speech in speeches:
        if not speech.text.strip():
            continue
        if turns and turns[-1][0] == speech.is_support:
            turns[-1][1].append(speech.text.strip())
        else:
            turns.append((speech.is_support, [speech.text.strip()]))
    begin, end = int(bool(turns) and turns[0][0]), len(turns) - int(bool(turns) and not turns[-1][0])
    whole = not any(is_support for is_support, _ in turns[begin:end])
    kept = turns if whole else turns[begin:end]
    messages = [
        {"role": "assistant" if is_support else "user", "content": "\n\n".join(texts)} for is_support, texts in kept
    ]
    return ConversationTurns(messages, sum(len(texts) for _, texts in turns) - sum(len(texts) for _, texts in kept))


def guess_support_team(meetings: Sequence[ThreadParticipants]) -> tuple[str, ...]:
    """The address that answers in most threads that others began, or its domain when several of it answer.

    Empty when nobody answers in two threads.
    """
    answers: Counter[str] = Counter()
    for meeting in meetings:
        answers.update(meeting.answered - {meeting.began})
    if not answers:
        return ()
    best = min(answers, key=lambda answer: (-answers[answer], answer))
    if answers[best] < min(2, len(meetings)):
        return ()
    domain = best.rpartition("@")[2]
    if "@" not in best or domain in _FREE:
        return (best,)
    fellows = [answer for answer in answers if answer.endswith(f"@{domain}")]
    return (f"@{domain}",) if len(fellows) > 1 else (best,)


def describe_support_team(file: str, support_team: tuple[str, ...]) -> str:
    """What is said of a guess."""
    if not support_team:
        return f"{file}: nobody answers in two threads; set `support_team` to the addresses of those who answer"
    return f"{file}: those who answer are taken to be {', '.join(support_team)}; set `support_team` if they are not"
