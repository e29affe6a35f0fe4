"""The profile of a source for proposals: columns, languages, personal data, repetitions."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from luthier.core.component import add_field_descriptions
from luthier.core.events import format_counted_noun
from luthier.data.suggest.separability import LabelSeparability

_LOST_SHOWN = 3
"""Classes that are named, where no row of them would be left."""
SHORT_ANSWER_WORDS = 6
"""Answers of so many words on average are the thing that is wanted, and not one way to say it."""


_MET, _SPOKEN_OF = 0.01, 0.05
"""Names of persons are taken out where so large a part of the rows greets or is signed; or, where none is, speaks of
somebody by a title, which exercises, news and novels do as well."""


class ColumnProfile(BaseModel):
    """One column, as the rows looked at show it."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)
    name: str
    kind: Literal["text", "number", "list", "object", "empty"]
    """What most values are; numbers written as text count as numbers."""
    filled: int
    """Rows with a value."""
    distinct: int
    mean_chars: float
    max_chars: int
    mean_words: float
    common: dict[str, int]
    """The most frequent values with their counts, at most 200 of them, of short ones only."""

    @property
    def is_class(self) -> bool:
        """Few short values that come again and again."""
        few = self.distinct * 4 <= self.filled or (self.distinct <= 10 and self.distinct * 2 <= self.filled)
        short = self.max_chars <= 64 and self.mean_words <= 6
        return self.kind in ("text", "number") and 2 <= self.distinct <= 200 and few and short


class ChangeExample(BaseModel):
    """An example of what an operator does, from the user's own rows, personal data masked."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    before: str
    after: str


class OperatorTrial(BaseModel):
    """What an operator would do to the rows looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)
    edited: int = 0
    """Rows that it would change."""
    dropped: dict[str, int] = {}
    """Rows that it would leave out, by reason."""
    flagged: dict[str, int] = {}
    """Rows that it would flag, by the name of the flag."""
    lost: tuple[str, ...] = ()
    """Answers that several rows have, and none of those that it would leave."""
    contested: int = 0
    """Rows that it would leave out for a twin that has another answer."""
    examples: tuple[ChangeExample, ...] = ()

    @property
    def lost_shown(self) -> str:
        """The first of the lost answers, and how many more there are."""
        more = len(self.lost) - _LOST_SHOWN
        rest = f" and {format_counted_noun(more, 'more class', 'more classes')}" if more > 0 else ""
        return ", ".join(map(repr, self.lost[:_LOST_SHOWN])) + rest


class SourceProfile(BaseModel):
    """A file, its columns, and what its rows hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)
    path: str
    kind: str
    """The source that reads it."""
    rows: int
    """All rows; estimated from the file's size when it is large."""
    estimated: bool
    gathered: bool = False
    """Whether rows are single messages: the conversations that they make are counted, and looked at."""
    looked_at: int
    """Rows, spread over the file, that the figures below are about."""
    broken: int
    """Rows that cannot be read."""
    first_broken: str = ""
    """Line and problem of the first of them."""
    first_remedy: str = ""
    """What to do about it, where more can be said than to mend the row."""
    columns: dict[str, ColumnProfile]
    notes: list[str]
    """What the reader decided (delimiter, encoding)."""
    languages: dict[str, int] = {}
    """Rows by the language of their prompt."""
    pii: dict[str, int] = {}
    """Rows that hold personal data, by kind, in texts and other columns."""
    names: dict[str, int] = {}
    """Rows that show names of persons, by where they do: greetings, signatures, columns of names."""
    row_bytes: float = 0
    """Mean size of a row's texts and columns."""
    html_rows: int = 0
    """Rows that hold HTML tags outside of code."""
    about_html: int = 0
    """Of these, rows that speak of HTML in words, as who asks for a page does."""
    unlabeled: int = 0
    """Rows without an answer, of the rows looked at."""
    with_tools: int = 0
    """Rows with tools on offer."""
    calling: int = 0
    """Rows whose answer calls one."""
    called: int = 0
    """Rows in which any turn of the assistant's calls one."""
    several: int = 0
    """Rows in which several turns of the assistant's can be learnt."""
    going_on: int = 0
    """Of these, rows that go on from another row, as each request of a log does: their earlier answers have rows of
    their own."""
    answers_in_all: int = 0
    """Turns of the assistant's in the rows looked at."""
    calls_in_all: int = 0
    """Of these, turns that call tools."""
    trials: dict[str, OperatorTrial] = {}
    """What operators would do, by kind, each to what those before it leave; left out where that is nothing."""
    spellings: dict[str, str] = {}
    """Rarer spellings of classes, with the common one."""
    answers: dict[str, int] = {}
    """Different answers of the whole file with their counts, when they are classes; empty for large files."""
    held_out: dict[str, int] = {}
    """Of the rows looked at, those that the seed of a proposed recipe holds out, by the share that is asked for."""
    json_answers: int = 0
    """Rows looked at whose answer is a JSON object or list."""
    json_keys: tuple[str, ...] = ()
    """The keys of such objects, the most frequent first."""
    alike_answers: int = 0
    """Rows looked at whose answer has most of its words from what was asked, and as many."""
    answer_words: float = 0
    """Mean length of an answer."""
    prompt_words: float = 0
    """Mean length of what is asked."""
    conflicts: int = 0
    """Rows looked at whose prompt another row has, too, with another class."""
    media: dict[str, int] = {}
    """Rows looked at that hold pictures (`image`) and sounds (`audio`)."""
    separability: LabelSeparability | None = None
    """How well words separate the classes; None where there are none, or too few rows."""

    @property
    def holds_names(self) -> bool:
        """Whether rows hold names of persons who write or are written to, and do not only speak of some."""
        spoken_of = self.names.get("title", 0)
        met = max((rows for position, rows in self.names.items() if position != "title"), default=0)
        return met >= max(1.0, _MET * self.looked_at) or spoken_of >= max(1.0, _SPOKEN_OF * self.looked_at)

    @property
    def size_told(self) -> str:
        """How much there is, and where."""
        about = "about " * self.estimated
        what = "conversation" if self.gathered else "row"
        columns = format_counted_noun(len(self.columns), "column")
        return f"{self.path}: {about}{format_counted_noun(self.rows, what)}, {columns}"
