"""Source that reads requests to a served model, with their feedback."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AwareDatetime, Field, field_validator, model_validator

from luthier.chat.messages import MEDIA_MARK, Media, messages_to_openai
from luthier.core.errors import DataError, InputError, LuthierError, SourceLocation
from luthier.core.files import EnvVarMarker, resolve_path
from luthier.core.hashing import digest_of
from luthier.data.columns.choose import LayoutChoice
from luthier.data.columns.media import COLUMNS, list_typed_marks
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import Say, Source, SuggestedSettings
from luthier.traces.media import has_trace_media, locate_trace_media, read_trace_media
from luthier.traces.record import list_decisive
from luthier.traces.retention import has_traffic, traffic_folder

if TYPE_CHECKING:
    from luthier.chat.messages import Message
    from luthier.data.columns.choose import Task
    from luthier.data.suggest.profile import ColumnProfile
    from luthier.traces.record import Trace
    from luthier.traces.store import TraceWithFeedback

TraceOutput = Literal["chat", "pairs", "verdicts", "labels"]
_WANTED: dict[TraceOutput, str] = {
    "chat": "",
    "pairs": " and correction is not missing",
    "verdicts": " and rating is not missing",
    "labels": " and (label is not missing or (operation = 'label' and correction is not missing))",
}
_ANSWERED = "variant != 'shadow' and operation in ('chat', 'completion', 'label')"


class Traces(Source):
    """Requests to a served model as rows to learn from: answers, corrections, ratings and labels that people gave.

    A row is named by its request (`luthier lineage chatcmpl-…` finds it) and grouped by who asked. What nobody may
    learn from is left out and counted. Personal data was taken out when the request was written. Pictures and sounds
    stand in their rows where the server kept their bytes (`luthier serve --keep '{media: bytes}'`).
    """

    kind: Literal["traces"] = "traces"

    path: Annotated[str, Field(min_length=1), EnvVarMarker()] | None = None
    """The folder of the traffic; left out, the one beside the recipe, or `LUTHIER_TRAFFIC`."""
    makes: TraceOutput = "chat"
    """`chat`: the conversation with its answer, or the correction where there is one; an answer that people did not
    like is left out when nobody corrected it. `pairs`: the correction as the preferred answer, and the answer that was
    given as the other. `verdicts`: the answer, and whether people liked it (for KTO). `labels`: what was asked, and its
    true class, or the correction of an answer that was chosen among classes."""
    where: str | None = None
    """Which requests, such as `rating < 0 and model = "support@prod"` (`luthier docs traffic`); all by default."""
    since: AwareDatetime | None = None
    """From this moment on, with its time zone: `2026-11-01T00:00:00Z`."""
    until: AwareDatetime | None = None
    """Before this moment, in what was asked and in what was said of it: traffic that goes on stands still below it."""
    id: str | None = "trace"
    """The column that names a row already."""
    group: str | None = "user"
    """The column whose rows must not be torn apart by the split."""

    @field_validator("where")
    @classmethod
    def _can_be_read(cls, where: str | None) -> str | None:
        if where is not None:
            from luthier.traces.filter import TraceFilter

            try:
                TraceFilter(where)
            except InputError as error:
                raise ValueError(f"{error.message}; {error.hint}".rstrip("; ")) from error
        return where

    @model_validator(mode="after")
    def _moments_in_order(self) -> Traces:
        if self.since and self.until and self.since >= self.until:
            raise ValueError("`since` is not before `until`")
        return self

    def read(self, recipe_dir: Path, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield every request in order of time; a row's file is its day, and its line the number on that day."""
        yield from self._read(recipe_dir, content=self.media == "read")

    def _read(self, recipe_dir: Path, *, content: bool) -> Iterator[SourceRecord | BrokenRow]:
        """The rows, where pictures and sounds are their content, or where that is kept."""
        folder = self._folder(recipe_dir)
        day: date | None = None
        line = 0
        for entry in self._read_traces(recipe_dir):
            at = entry.trace.timestamp.astimezone(UTC).date()
            line = line + 1 if at == day else 1
            day = at
            file, key = f"traces/{day.isoformat()}", f"trace = {entry.trace.id}"
            if why := self._why_not(entry) or (_why_no_media(entry.trace, folder) if self.media == "read" else ""):
                yield BrokenRow(file, line, why, key=key, left_out=True)
            else:
                yield SourceRecord(self._values(entry, folder if content else None), file, line, key)

    def suggest_settings(self, recipe_dir: Path) -> SuggestedSettings:
        """The system turn under which classes were chosen is that of the rows."""
        if self.makes != "labels":
            return super().suggest_settings(recipe_dir)
        rows = (entry.values for entry in self.read(recipe_dir, lambda text: None) if isinstance(entry, SourceRecord))
        if not any("system" in row for row in rows):
            return SuggestedSettings({}, {})
        return SuggestedSettings(
            {"system_column": "system"}, {"system_column": "what the model was told when it was asked"}
        )

    def choice(
        self, columns: Mapping[str, ColumnProfile], rows: Sequence[dict[str, Any]], name: str, task: Task | None
    ) -> LayoutChoice:
        """True classes stand where it writes them, be they all the same."""
        if self.makes != "labels" or self.prompt or self.answer:
            return super().choice(columns, rows, name, task)
        reasons = {"prompt": "what was asked", "answer": "the true class, as people said it"}
        return LayoutChoice({"prompt": "text", "answer": "label"}, reasons, is_label=True)

    def _read_traces(self, recipe_dir: Path) -> Iterator[TraceWithFeedback]:
        """Requests that are meant; `DataError` when no traffic is kept."""
        from luthier.traces.filter import TraceFilter
        from luthier.traces.store import read_traces_with_feedback

        folder = self._folder(recipe_dir)
        if not has_traffic(folder):
            hint = "`luthier serve` keeps it, `luthier traces import` takes logs in"
            raise DataError("no traffic is kept here", where=SourceLocation(file=str(folder), field="path"), hint=hint)
        condition = TraceFilter(f"({self.where}) and {self._meant}" if self.where else self._meant)
        return read_traces_with_feedback(folder, self.since, self.until, condition, feedback_until=self.until)

    @property
    def _meant(self) -> str:
        return _ANSWERED + _WANTED[self.makes]

    def _folder(self, recipe_dir: Path) -> Path:
        return resolve_path(self.path, recipe_dir) if self.path else traffic_folder(recipe_dir)

    def _why_not(self, entry: TraceWithFeedback) -> str:
        """Why nothing can be learnt from a request; empty when something can."""
        if not entry.trace.consent:
            return "nobody may learn from it (consent)"
        if not entry.trace.messages:
            return "what was asked was not kept"
        if self.makes == "labels" or (self.makes == "chat" and _last(entry, "correction")):
            return ""
        if entry.trace.answer is None or entry.trace.finish_reason in ("cancelled", "error"):
            return "was not answered"
        return self._unwanted(entry, entry.trace.answer.content)

    def _unwanted(self, entry: TraceWithFeedback, answer: str) -> str:
        """Why an answer that was given is not one to learn from."""
        if self.makes == "pairs" and _last(entry, "correction").strip() == answer.strip():
            return "the correction says the same"
        if self.makes == "chat" and (_rating(entry) or 0) < 0:
            return "people did not like the answer, and nobody said a better one"
        return "people are of two minds" if self.makes == "verdicts" and _rating(entry) == 0 else ""

    def _values(self, entry: TraceWithFeedback, media: Path | None) -> dict[str, Any]:
        trace, correction = entry.trace, _last(entry, "correction")
        prompt_messages = [_with_addresses(turn, media) for turn in trace.messages]
        given = messages_to_openai([trace.answer])[0] if trace.answer else {}
        about = {
            "trace": trace.id,
            "timestamp": trace.timestamp.astimezone(UTC).isoformat(),
            "model": trace.model,
            "release": trace.release,
            "user": trace.user or "",
            "rating": _rating(entry),
            "comment": _last(entry, "comment"),
            **trace.meta,
        }
        if self.makes == "pairs":
            return {
                "prompt": prompt_messages,
                "chosen": correction,
                "rejected": trace.answer and trace.answer.content,
                **about,
            }
        if self.makes == "labels":
            system = {"system": text} if (text := _system(trace.messages)) else {}
            label = _last(entry, "label") or correction
            return {"text": _question(trace.messages), "label": label, **_columns(trace, media), **system, **about}
        better = {"role": "assistant", "content": correction} if correction and self.makes == "chat" else given
        verdict = {"label": (_rating(entry) or 0) > 0} if self.makes == "verdicts" else {}
        return {"messages": [*prompt_messages, better], **verdict, **about}

    @property
    def living(self) -> bool:
        """Requests come while rows are read."""
        return True

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """A digest of the rows; None when no traffic is kept (`read` says so)."""
        try:
            return digest_of([json.dumps(record, default=str) for record in self._read(recipe_dir, content=False)])
        except LuthierError:
            return None

    def size(self, recipe_dir: Path) -> int | None:
        """The characters of all rows."""
        try:
            return sum(len(json.dumps(record, default=str)) for record in self._read(recipe_dir, content=False))
        except LuthierError:
            return None


def _last(entry: TraceWithFeedback, name: str) -> str:
    """What was said last of several people's words that count alike."""
    found = list_decisive(entry.feedback, name)
    return str(found[-1]) if found else ""


def _rating(entry: TraceWithFeedback) -> float | None:
    ratings = list_decisive(entry.feedback, "rating")
    return sum(ratings) / len(ratings) if ratings else None


def _question(messages: tuple[Message, ...]) -> str:
    return "\n".join(_marked(turn) for turn in messages if turn.role == "user")


def _why_no_media(trace: Trace, folder: Path) -> str:
    """Why the pictures and sounds of a request cannot stand in a row; empty where they can."""
    media = [medium for turn in trace.messages for medium in turn.media]
    if any(not has_trace_media(folder, medium) for medium in media):
        return "its pictures or sounds were not kept"
    if media and (marks := [mark for turn in trace.messages for mark in list_typed_marks(turn.content)]):
        return f"holds pictures or sounds, and a typed {marks[0]}, which would be taken for another one"
    return ""


def _address(medium: Media, folder: Path | None) -> str:
    """The content of a medium as a data URL, or where it is kept."""
    if folder is None:
        return locate_trace_media(medium)
    content = base64.b64encode(read_trace_media(folder, medium)).decode()
    return f"data:{medium.kind}/{medium.format};base64,{content}"


def _with_addresses(turn: Message, folder: Path | None) -> dict[str, Any]:
    """A turn in OpenAI's form, with a part for each picture and sound."""
    (message,) = messages_to_openai([turn])
    if not turn.media:
        return message
    first, *texts = turn.content.split(MEDIA_MARK)
    parts: list[dict[str, Any]] = [{"type": "text", "text": first}]
    for medium, text in zip(turn.media, texts, strict=True):
        parts += [{"type": medium.kind, medium.kind: _address(medium, folder)}, {"type": "text", "text": text}]
    return {**message, "content": [part for part in parts if part.get("text") != ""]}


def _marked(turn: Message) -> str:
    """A turn's text with the marks of intake."""
    first, *texts = turn.content.split(MEDIA_MARK) if turn.media else [turn.content]
    return first + "".join(f"<{medium.kind}>{text}" for medium, text in zip(turn.media, texts, strict=True))


def _columns(trace: Trace, folder: Path | None) -> dict[str, list[str]]:
    """The columns of the pictures and sounds that a user showed, in order."""
    columns: dict[str, list[str]] = {}
    for turn in trace.messages:
        for medium in turn.media if turn.role == "user" else ():
            columns.setdefault(COLUMNS[medium.kind], []).append(_address(medium, folder))
    return columns


def _system(messages: tuple[Message, ...]) -> str:
    return "\n".join(turn.content for turn in messages if turn.role == "system")


def choose_trace_target(recipe_dir: Path, settings: Mapping[str, Any]) -> TraceOutput:
    """What requests say most about: corrections, true classes, or else whole answers."""
    found: dict[TraceOutput, int] = {}
    makes: TraceOutput
    for makes in ("labels", "pairs", "chat"):
        source = Traces.model_validate({**settings, "kind": "traces", "makes": makes})
        found[makes] = sum(isinstance(entry, SourceRecord) for entry in source.read(recipe_dir, lambda text: None))
    if not any(found.values()):
        what = "no request that is meant can be learnt from"
        hint = "`luthier traces list --where …` shows which are meant; corrections, ratings and labels come as feedback"
        raise DataError(what, where=SourceLocation(field="--where"), hint=hint)
    return max(found, key=lambda makes: (found[makes] if makes != "chat" else 0, makes == "chat"))
