"""A source yields records with their lines; its mapping fields say what the columns mean."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from collections.abc import Mapping as Columns
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from luthier.chat.messages import Message
from luthier.core.component import Component, components_by_kind
from luthier.core.errors import DataError, RecipeError, SourceLocation
from luthier.core.files import PathText
from luthier.core.hashing import digest_of
from luthier.core.system.net import redact_url
from luthier.data.columns.choose import LayoutChoice, Task, choose_conversation_layout, choose_layout
from luthier.data.columns.conversations import TurnColumns
from luthier.data.columns.layouts import Layout
from luthier.data.columns.mapping import ColumnMapping, MappedRecord, column_repeated_in_answer, decide_mapping
from luthier.data.columns.media import (
    COLUMNS,
    MEDIA_NAMES,
    count_media,
    holds_bytes,
    is_media_url,
    list_addresses,
    looks_like_media,
)
from luthier.data.formats.files import SourceFile
from luthier.data.formats.locations import list_matching_files
from luthier.data.formats.media_files import MediaFolder
from luthier.data.formats.pdf_pages import PageRendering
from luthier.data.formats.sniff import FileSample, FormatMatch
from luthier.data.formats.video import FrameSampling
from luthier.data.row import BrokenRow, SourceRecord, UnusableRowError, count_record_characters, take_first_chunk
from luthier.data.suggest.profile import ColumnProfile
from luthier.data.web.media import FetchedMedia, MediaFetchSettings, fetch_media

LOOKED_AT = 200
"""So many first rows decide which layout a source has, fewer where rows are long."""
HAS_ANSWER = "has an answer"
"""Why a row is left out where only rows without a label are wanted."""
_BUSY = 4
"""How much longer than alone a look at rows may take beside other programs."""

Say = Callable[[str], None]


Mapped = tuple[SourceRecord, MappedRecord] | BrokenRow
"""A row with what it became, or why it is broken."""


class SourceSample(NamedTuple):
    """Rows that were looked at before all are read."""

    rows: list[tuple[SourceRecord, MappedRecord]]
    left_out: int
    """How many others were broken, or cannot be used."""
    whole: bool
    """Whether there are no more."""


class SuggestedSettings(NamedTuple):
    """Settings of a source, and why; reasons of settings that are set anyhow may stand there, too (`kind`)."""

    settings: dict[str, Any]
    reasons: dict[str, str]


class Source(Component):
    """Where rows come from, and what their columns mean.

    When none of `prompt`, `answer` and `messages` is set, the layout is recognised from the rows: OpenAI chat,
    Alpaca, ShareGPT, prompt/completion, question/answer, evaluation samples, texts with classes, or two columns.
    """

    role: ClassVar[str] = "source"
    home: ClassVar[str] = "luthier.data.sources"
    names_columns: ClassVar[bool] = False
    """Whether its files say in every row what the columns are called, as JSON does."""
    other_names: ClassVar[Columns[str, str]] = {
        "prompt_column": "prompt",
        "text_column": "prompt",
        "input_column": "prompt",
        "answer_column": "answer",
        "label_column": "answer",
        "label": "answer",
        "completion": "answer",
        "response": "answer",
        "conversations": "messages",
        "system_prompt": "system",
        "na_values": "null_values",
        "nrows": "limit",
        "n_rows": "limit",
    }
    written: ClassVar[Layout | None] = None
    """The layout of its rows where it writes the columns itself, such as a mailbox's threads; else it is recognised."""

    prompt: str | None = None
    """The column that the model is given, or a template with columns in braces: `"{subject}\\n\\n{message}"`."""
    answer: str | None = None
    """The column that the model shall say, or a template with columns in braces. Without a prompt: text to continue."""
    prompt_only: bool = False
    """Rows hold no answers (for rewards, or `constitution`): the prompt stands in the place of the answer."""
    messages: str | None = None
    """The column with a whole conversation: a list of messages, or JSON text of one."""
    turns: TurnColumns | None = None
    """Where every row is one message: the columns by which the rows of a conversation become one, at the place of its
    first row: `{conversation: chat_id, role: sender, content: text, order: sent_at}`. `role` and `content` are called
    so unless said; without `order`, messages stand as in the file."""
    system: str | None = None
    """The system turn of every row that has none of its own, as literal text."""
    system_column: str | None = None
    """The column with each row's system turn."""
    tools: str | None = None
    """The column with the JSON schemas of the tools on offer."""
    id: str | None = None
    """The column that names a row already; its values must differ, and `lineage` accepts them."""
    group: str | None = None
    """The column (customer, conversation, …) whose rows must not be torn apart by the split."""
    null_values: tuple[str, ...] = ()
    """Values that say that a cell is empty, such as `N/A`; a row without its answer is left out and counted."""
    on_error: Literal["stop", "drop"] = "stop"
    """A broken row stops the run with its line, or is dropped, counted and listed."""
    unlabeled: Literal["drop", "only"] = "drop"
    """Rows without an answer: left out and counted, or the only ones that are read, as texts without a question. The
    step `unlabeled` reads them so, for annotators."""
    media: Literal["read", "keep", "drop"] = "read"
    """Rows with pictures or sounds (a mark such as `<image>` in the text, and an address in `images`; or parts of
    messages): read, and kept in the data set, each once; kept as marks and addresses in `meta.images`, unread; or left
    out and counted. Films and PDFs stand as pictures: their frames and pages."""
    media_columns: dict[str, Literal["image", "audio", "video"]] = Field(default_factory=dict)
    """Columns that hold pictures, sounds or films under other names than `image`, `images`, `audio`, `audios`, `video`
    and `videos`: `{photo: image}`. A prompt shows one by its name: `"{photo} What is broken?"`."""
    video: FrameSampling = FrameSampling()
    """Which frames of a film stand as pictures in its place."""
    pdf: PageRendering = PageRendering()
    """How the pages of a PDF in a column of pictures become pictures, one after the other in its place."""
    limit: int | None = Field(default=None, ge=1)
    """Read only so many rows, for a quick trial."""

    @classmethod
    def instead_of(cls, name: str) -> str:
        """Of a path, how it is written with its kind; of an ending, whose it is."""
        ending = SourceFile(Path(name), name).ending
        dict_items = components_by_kind(cls).items()
        kinds = sorted(kind for kind, entry in dict_items if (ending or f".{name}") in getattr(entry, "endings", ()))
        if not ending and kinds:
            return f"did you mean {kinds[0]!r}?"
        if kinds or ("/" in name and "://" not in name):
            kind = ending[1:] if ending[1:] in kinds else next(iter(kinds), "folder")
            return f"write `{{kind: {kind}, path: {name}}}`"
        return super().instead_of(name)

    @model_validator(mode="after")
    def _mapping_is_whole(self) -> Source:
        if self.messages and (self.prompt or self.answer):
            raise ValueError("`messages` is set beside `prompt` or `answer`; keep the one that your columns hold")
        if self.turns and (self.messages or self.prompt or self.answer):
            raise ValueError("`turns` is set beside `messages`, `prompt` or `answer`; it says what they say")
        if self.prompt_only and (self.answer or not self.prompt):
            raise ValueError(
                "`prompt_only` goes with `prompt` alone; name the column in `prompt`, and leave `answer` out"
            )
        if self.prompt and not self.answer and not self.prompt_only:
            what = "`prompt` is set and `answer` is not; name the column that the model shall say"
            raise ValueError(f"{what}, or set `prompt_only: true` where rows hold no answers")
        if column := _in_both(self.prompt, self.answer):
            what = f"`prompt` and `answer` name the same column {column!r}, so that a model would learn to repeat it"
            hint = "name the column that the model shall say"
            raise ValueError(f"{what}; {hint}, or leave `answer` out and set `prompt_only: true`")
        return self

    @abstractmethod
    def read(self, recipe_dir: Path, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield every row in order, in bounded memory; `say` tells the user what was decided on the way."""

    @abstractmethod
    def size(self, recipe_dir: Path) -> int | None:
        """Bytes to read, for forecasts; None when that cannot be known yet."""

    def here(self, recipe_dir: Path) -> Source | None:
        """What reads the same rows without the network, where they are on this machine already: a plan fetches nothing.

        By default the source itself.
        """
        return self

    def glance(self, recipe_dir: Path) -> list[tuple[SourceRecord, MappedRecord]]:
        """The first rows, and what becomes of them; `DataError` for what is wrong with them."""
        return self.look(recipe_dir, 0.0).rows

    def look(self, recipe_dir: Path, seconds: float) -> SourceSample:
        """The first rows, and those that can be read in so many seconds more.

        `DataError` for what is wrong with the first rows; what is wrong further on is told when all are read.
        """
        here = self.here(recipe_dir)
        found = here.mapped(recipe_dir, lambda text: None) if here is not None else iter(())
        looked = take_first_chunk(found, LOOKED_AT, _size)
        for entry in looked:
            if isinstance(entry, BrokenRow) and self.on_error == "stop" and not entry.left_out:
                raise entry.error()
        more, whole = _further(found, seconds)
        rows = [entry for entry in (*looked, *more) if not isinstance(entry, BrokenRow)]
        return SourceSample(rows, len(looked) + len(more) - len(rows), whole)

    def records(self, recipe_dir: Path, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """What `read` yields, or the conversations that it makes, as far as `limit` allows."""
        found = self.read(recipe_dir, say)
        if self.turns:
            found = self.turns.gathered(found, say)
        return islice(found, self.limit) if self.limit is not None else found

    def mapped(self, recipe_dir: Path, say: Say) -> Iterator[Mapped]:
        """Every row with what it became, or why it is broken."""
        found = self.records(recipe_dir, say)
        looked = take_first_chunk(found, LOOKED_AT, count_record_characters)
        good = [record for record in looked if isinstance(record, SourceRecord)]
        if not good:
            yield from (record for record in chain(looked, found) if isinstance(record, BrokenRow))
            return
        mapping = self.mapping(good)
        if mapping.layout.note:
            say(f"{good[0].file}: read as {mapping.layout.note}")
        if choices := mapping.choices([record.values for record in good]):
            say(f"{good[0].file}: {choices}")
        holders = files_by_column(good)
        for record in chain(looked, found):
            yield self._without_label(self._without_media(_map(record, mapping, holders)))

    @property
    def media_root(self) -> str | None:
        """The folder in which paths of media start; None: no path is read."""
        return None

    def fetched_media(self, recipe_dir: Path) -> FetchedMedia | None:
        """What was fetched of the media that rows name by URL; None where none is to be fetched."""
        return None

    def find_media_columns(self, rows: Sequence[dict[str, Any]], spoken: Collection[str] = ()) -> dict[str, str]:
        """The columns of rows like these that hold pictures or sounds, and which of both.

        A column `image` with an address counts only where a folder of media is named, or where it is the prompt, or
        a part of it (`spoken`): else it is text as any other.
        """
        if self.media == "keep":
            return {}
        named = dict[str, str](self.media_columns)
        for column, kind in MEDIA_NAMES.items():
            values = [row[column] for row in rows if row.get(column)]
            is_shown = column in spoken and any(map(looks_like_media, values))
            if values and (self.media_root is not None or is_shown or any(map(holds_bytes, values))):
                named[column] = kind
        return named

    def suggest_settings(self, recipe_dir: Path) -> SuggestedSettings:
        """What its content asks for beside a path, for a recipe that is proposed; nothing by default."""
        return SuggestedSettings({}, {})

    def choice(
        self, columns: Columns[str, ColumnProfile], rows: Sequence[dict[str, Any]], name: str, task: Task | None
    ) -> LayoutChoice:
        """Which columns mean what, for a recipe that is proposed."""
        return (
            choose_conversation_layout(self.turns, columns) if self.turns else self._chosen(columns, rows, name, task)
        )

    def _chosen(
        self, columns: Columns[str, ColumnProfile], rows: Sequence[dict[str, Any]], name: str, task: Task | None
    ) -> LayoutChoice:
        requested_layout = Layout(prompt=self.prompt, answer=self.answer)
        return choose_layout(columns, rows, name, task, self.written, requested_layout)

    def _without_media(self, found: Mapped) -> Mapped:
        """A row, or why it is left out although it can be read."""
        if self.media != "drop" or isinstance(found, BrokenRow):
            return found
        record, parts = found
        holds = ", ".join(count_media(parts.messages, parts.meta))
        what = f"holds {holds}"
        return (
            BrokenRow(record.file, record.line, what, key=record.key, left_out=True, row=record.row) if holds else found
        )

    def _without_label(self, found: Mapped) -> Mapped:
        """A row whose answer is missing as a text, or that it has one, where only such rows are wanted."""
        if self.unlabeled == "drop" or isinstance(found, BrokenRow):
            return found
        record, parts = found
        last = parts.messages[-1]
        if last.role == "assistant" and (last.content.strip() or last.tool_calls):
            return BrokenRow(record.file, record.line, HAS_ANSWER, key=record.key, left_out=True, row=record.row)
        prompt_text = "\n\n".join(turn.content for turn in parts.messages if turn.role != "system" and turn.content)
        text = Message(role="assistant", content=prompt_text)
        return record, parts._replace(messages=(text,), kind="completion", tools=())

    def mapping(self, good: list[SourceRecord]) -> ColumnMapping:
        """The mapping for rows like these."""
        answer = self.prompt if self.prompt_only else self.answer
        requested_layout = Layout(self.prompt, answer, self.messages, self.system_column, self.tools)
        rows = [record.values for record in good]
        name, written = good[0].file, self.turns.layout if self.turns else self.written
        column_mapping = decide_mapping(
            requested_layout, rows, name, system=self.system, group=self.group, key=self.id, written=written
        )
        media = self.find_media_columns(rows, column_mapping.spoken)
        return column_mapping.without(self.null_values).with_media(media)


def _in_both(prompt: str | None, answer: str | None) -> str | None:
    """The column that both name; None where one of them is no template, which is told when rows are read."""
    with suppress(RecipeError):
        return column_repeated_in_answer(prompt, answer)
    return None


def _further(found: Iterator[Mapped], seconds: float) -> tuple[list[Mapped], bool]:
    """What can be read of rows in so many seconds, and whether that is all of them; on a busy machine the clock may go
    on for some times as long."""
    more, worked, began = list[Mapped](), time.thread_time(), time.perf_counter()
    with suppress(DataError):
        while time.thread_time() - worked < seconds and time.perf_counter() - began < _BUSY * seconds:
            if (one := next(found, None)) is None:
                return more, True
            more.append(one)
    return more, False


def _size(found: Mapped) -> int:
    return count_record_characters(found if isinstance(found, BrokenRow) else found[0])


Holders = Columns[str, frozenset[str]]
"""Which files have rows with a column."""


def files_by_column(records: Sequence[SourceRecord]) -> Holders:
    """Which files have rows with which columns."""
    found: dict[str, set[str]] = {}
    for record in records:
        for column in record.values:
            found.setdefault(column, set()).add(record.file)
    return {column: frozenset(files) for column, files in found.items()}


def build_broken_row(record: SourceRecord, error: UnusableRowError, holders: Holders) -> BrokenRow:
    """A row that makes no example; where a column is missing that other files have, with what brings them together."""
    files = holders.get(error.field or "", frozenset())
    hint = error.hint
    if files and error.field not in record.values and record.file not in files:
        more = (
            f"{min(files)} has it: give all files the same columns, or make a step `prepare` for each kind of file, "
            "with a `path` or `glob` that names only these, and put them together by a step `mix`"
        )
        hint = f"{hint}; {more}" if hint else more
    return BrokenRow(record.file, record.line, error.problem, error.field, hint, record.key, row=record.row)


def _map(record: SourceRecord | BrokenRow, mapping: ColumnMapping, holders: Holders) -> Mapped:
    if isinstance(record, BrokenRow):
        return record
    try:
        return record, mapping.parts(record.values)
    except UnusableRowError as error:
        return build_broken_row(record, error, holders)


class FileSource(Source):
    """A source of files: one, the fitting files of a folder, those that a pattern names, or what lies behind a URL."""

    other_names: ClassVar[Columns[str, str]] = {
        "file": "path",
        "data_files": "path",
        "data_path": "path",
        "url": "path",
    }
    endings: ClassVar[tuple[str, ...]] = ()
    """What names of such files end in, without the ending of a packing (`.gz`, `.bz2`, `.xz`, `.zst`, `.zip`)."""
    gathers: ClassVar[bool] = False
    """Whether the files of a folder speak about the same rows, so that they are read together."""

    path: PathText
    """A file, a folder, a pattern such as `2024/*.csv`, or a URL such as `s3://bucket/rows.csv`. A relative path starts
    at the recipe's folder; `$NAME` is taken from the environment. Packed files are unpacked as they are read; one of
    several in a zip is named as `export.zip/rows.csv`."""
    media_folder: PathText | None = None
    """The folder, or zip, in which paths of pictures and sounds start; no path leads out of it, and its files count
    with those of `path`. None: media whose content stands in the rows are read, and paths are refused."""
    fetch: MediaFetchSettings | None = None
    """Fetch pictures, sounds and films that rows name by URL, each once; `{}` takes the defaults. None: URLs are
    refused."""

    @classmethod
    def recognises(cls, look: FileSample) -> FormatMatch:
        """How well a file's first bytes fit this kind."""
        return FormatMatch.NO

    @abstractmethod
    def read_file(self, file: SourceFile, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield every row of one file, in bounded memory."""

    def files(self, recipe_dir: Path) -> list[SourceFile]:
        """The files that are read, in order of their names; an error for a path that means none.

        Of a zip that holds several files, those that fit are read, as of a folder.
        """
        known = f"known endings: {self._known()}"
        source_files = list_matching_files(self.path, recipe_dir, self._fits, known)
        if len(source_files) != 1 or not (inside := source_files[0].inside()):
            return source_files
        if fitting := list(filter(self._fits, inside)):
            return fitting
        raise DataError("holds no file that can be read", where=source_files[0].where, hint=known)

    def _fits(self, file: SourceFile) -> bool:
        return file.ending in self.endings

    def read(self, recipe_dir: Path, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield the rows of every file, one file after the other."""
        for file in self.files(recipe_dir):
            yield from self.read_file(file, say)

    def gather(self, recipe_dir: Path, say: Say) -> None:
        """Fetch the media that rows name by URL and that are not here yet."""
        fetched = self.fetched_media(recipe_dir)
        if self.fetch is None or fetched is None or fetched.is_here():
            return
        try:
            urls = (url for _, _, url in self._media_urls(recipe_dir))
            fetch_media(fetched.key, urls, self.fetch, say, stops=self.on_error == "stop")
        except DataError as error:
            for record, column, url in self._media_urls(recipe_dir):
                if redact_url(url.partition("#")[0]) == error.where.file:
                    where = SourceLocation(file=record.file, line=record.line, field=column)
                    hint = error.hint.replace("`hosts`", "`fetch: {hosts: […]}`")
                    what = f"{error.where.file}: {error.message}"
                    raise DataError(what, where=where, hint=hint) from error
            raise

    def fetched_media(self, recipe_dir: Path) -> FetchedMedia | None:
        """What was fetched of the media that rows name by URL; None where none is to be fetched."""
        if self.fetch is None or self.media != "read" or (files := self._files_fingerprint(recipe_dir)) is None:
            return None
        request_settings = self.model_dump(mode="json", exclude={"video", "pdf"})
        return FetchedMedia(digest_of([files, request_settings]))

    def _media_urls(self, recipe_dir: Path) -> Iterator[tuple[SourceRecord, str, str]]:
        """The URLs of media in the rows' order, with the row and the column of each."""
        for found in self.mapped(recipe_dir, lambda text: None):
            if isinstance(found, BrokenRow):
                continue
            record, parts = found
            for kind, column in COLUMNS.items():
                with suppress(UnusableRowError):
                    for address in list_addresses(parts.meta.get(column), kind, column):
                        if is_media_url(address):
                            yield record, column, address

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """A digest of the files' names and contents, and of what was fetched; None when there is no such file (`read`
        says why), or something is to be fetched yet."""
        files = self._files_fingerprint(recipe_dir)
        if (fetched := self.fetched_media(recipe_dir)) is None:
            return files
        return digest_of([files, fetched.fingerprint()]) if fetched.is_here() else None

    def _files_fingerprint(self, recipe_dir: Path) -> str | None:
        source_files = self._present(recipe_dir)
        if not source_files:
            return None
        if self.media_root is not None and self.media != "drop":
            media = MediaFolder(self.media_root, recipe_dir).fingerprint()
            return digest_of([media, [(file.name, file.fingerprint()) for file in source_files]])
        if len(source_files) == 1 and source_files[0].name == self.path:
            return source_files[0].fingerprint()
        return digest_of([(file.name, file.fingerprint()) for file in source_files])

    @property
    def media_root(self) -> str | None:
        """The folder in which paths of media start."""
        return self.media_folder

    def paths(self, recipe_dir: Path) -> Iterator[tuple[str, Path]]:
        """The file or folder, or the files that the pattern names."""
        found = list(super().paths(recipe_dir)) or [
            ("path", file.path) for file in self._present(recipe_dir) if not file.url
        ]
        yield from dict.fromkeys(found)

    def size(self, recipe_dir: Path) -> int | None:
        """About how many bytes there are to read; None when there is no such file."""
        source_files = self._present(recipe_dir)
        return sum(file.size() for file in source_files) if source_files else None

    def _present(self, recipe_dir: Path) -> list[SourceFile]:
        try:
            source_files = self.files(recipe_dir)
        except DataError:
            return []
        return source_files if all(file.exists() for file in source_files) else []

    def _known(self) -> str:
        return ", ".join(self.endings)
