"""Receive feedback over HTTP, and write feedback and logs from the command line.

Feedback is a thumb, a rating, a label, a correction, failure types, marks on parts of the answer, or a comment.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from luthier.core.component import add_field_descriptions
from luthier.core.errors import InputError, SourceLocation
from luthier.core.files import translate_write_errors, write_atomically
from luthier.traces.compact import compact_traffic_folder
from luthier.traces.record import FailureSpan, Feedback, FeedbackRole, Trace
from luthier.traces.redact import Redactor
from luthier.traces.retention import SEGMENTS, RetentionPolicy
from luthier.traces.segment import Segment, SegmentLine, Table, encode_lines

if TYPE_CHECKING:
    from fastapi import APIRouter

_LONGEST = 1 << 20
_Text = Annotated[str, Field(max_length=_LONGEST)]
_Name = Annotated[str, Field(min_length=1, max_length=256)]
_SAID = ("thumb", "rating", "label", "correction", "comment", "types", "spans")


class FeedbackBody(BaseModel):
    """The body of a feedback request about one answer."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=add_field_descriptions, allow_inf_nan=False)

    id: _Name
    """The id of the completion that it is about (`chatcmpl-…`)."""
    thumb: Literal["up", "down"] | None = None
    """The same as a rating of 1 or -1."""
    rating: float | None = Field(default=None, ge=-1, le=1)
    """From -1 (bad) to 1 (good)."""
    label: Annotated[str, Field(max_length=1024)] | None = None
    """The true class."""
    correction: _Text | None = None
    """What the answer should have been."""
    comment: _Text = ""
    types: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=100)], ...], Field(max_length=20)] = ()
    """The types of failure that the answer shows."""
    spans: Annotated[tuple[FailureSpan, ...], Field(max_length=100)] = ()
    """Parts of the answer that are wrong."""
    role: FeedbackRole = "user"
    """What an owner says counts before what reviewers say, and that before what users say."""
    new_class: bool = False
    """Whether the label is a class that the model does not know yet. Otherwise a label that is none of its classes is
    refused."""
    user: Annotated[str, Field(max_length=256)] = ""
    """Who says it; of one person the last counts."""

    @field_validator("rating", mode="before")
    @classmethod
    def _no_flag(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise PydanticCustomError(
                "number", "expected a number from -1 to 1, got {came}", {"came": str(value).lower()}
            )
        return value

    @field_validator("label", "correction")
    @classmethod
    def _blank_is_nothing(cls, value: str | None, about: ValidationInfo) -> str | None:
        """Forms send what nobody filled in; and no class begins or ends with spaces."""
        if value is None or not value.strip():
            return None
        return value.strip() if about.field_name == "label" else value

    @model_validator(mode="after")
    def _says_something(self) -> FeedbackBody:
        if not any(getattr(self, name) for name in _SAID if name != "rating") and self.rating is None:
            raise ValueError(f"says nothing: one of {', '.join(_SAID)} is wanted")
        if self.thumb is not None and self.rating is not None:
            raise ValueError("`thumb` and `rating` say the same; one of them is wanted")
        if self.new_class and self.label is None and self.correction is None:
            raise ValueError("`new_class` goes with a `label`")
        return self

    @property
    def names_class(self) -> bool:
        """Whether it may name the true class: by a label, or by the correction of an answer that is a class."""
        return self.label is not None or self.correction is not None

    def feedback(self, at: datetime) -> Feedback:
        """The same as a record."""
        rating = {"up": 1.0, "down": -1.0}[self.thumb] if self.thumb else self.rating
        named = {"rating": rating, **{name: getattr(self, name) for name in _SAID if name not in ("thumb", "rating")}}
        given = {name: value for name, value in named.items() if value not in (None, "", ())}
        given |= {} if self.role == "user" else {"role": self.role}
        return Feedback.model_validate({"trace": self.id, "timestamp": at, "by": self.user, **given})

    @classmethod
    def from_fields(cls, **fields: Any) -> FeedbackBody:
        """The same from loose values; `InputError` for what cannot be said."""
        try:
            return cls(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            what = first["msg"].removeprefix("Value error, ")
            field = ".".join(map(str, first["loc"])) or "feedback"
            raise InputError(
                what, where=SourceLocation(field=field), hint="for example --down, or --correction TEXT"
            ) from error


class FeedbackResponse(BaseModel):
    """The answer to an opinion."""

    model_config = ConfigDict(json_schema_extra=add_field_descriptions)

    id: str
    """Of the completion that it is about."""
    object: Literal["feedback"] = "feedback"
    created: int
    """In seconds since 1970."""


def feedback_routes(
    record: Callable[[Feedback], None], check: Callable[[Feedback], Feedback] | None = None
) -> APIRouter:
    """`POST /v1/feedback`; whoever mounts it sees to keys, limits and the shape of errors.

    An opinion about a request of which no trace is kept is taken as well: the trace may be on its way. `check` looks at
    true classes, in a thread, one at a time: it returns what is to be recorded, or raises.
    """
    from fastapi import APIRouter

    routes = APIRouter(tags=["feedback"])
    one_at_a_time = asyncio.Semaphore(1)

    async def give(opinion: FeedbackBody) -> Any:
        """Say what an answer was worth, or what it should have been."""
        now = datetime.now(UTC)
        feedback = opinion.feedback(now)
        if check is not None and opinion.names_class and not opinion.new_class:
            async with one_at_a_time:
                feedback = await asyncio.to_thread(check, feedback)
        await asyncio.to_thread(record, feedback)  # names are looked for before it is kept
        return FeedbackResponse(id=opinion.id, created=int(now.timestamp()))

    routes.add_api_route(
        "/v1/feedback", give, methods=["POST"], response_model=FeedbackResponse, operation_id="give_feedback"
    )
    return routes


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PART = 5000
"""Records of a log that are taken in at once: a part is there as a whole or not at all."""


def append_redacted_records(
    folder: Path, records: Iterable[Trace | Feedback], keeping: RetentionPolicy | None = None
) -> int:
    """Redact records and append them; returns how many."""
    keeping = keeping or RetentionPolicy.of(folder)
    lines = list(_lines(records, keeping))
    segment = Segment(folder, "hand")
    try:
        segment.write(encode_lines(lines))
    finally:
        segment.close()
    return len(lines)


def import_log_records(
    folder: Path, digest: str, records: Iterator[Trace | Feedback], keeping: RetentionPolicy | None = None
) -> int:
    """Take in a log, known by the digest of its content: the same log again adds nothing, and a kill is gone on from.

    A record of an id and a moment that are kept already is left out: logs overlap, and one may come from this very
    folder. Returns how many records were new.
    """
    keeping = keeping or RetentionPolicy.of(folder)
    taken, part = 0, 0
    kept: set[int] | None = None
    while some := list(islice(records, _PART)):
        mark = folder / "taken" / f"{digest}-{part:06}"
        if not mark.exists():
            kept = _kept(folder) if kept is None else kept
            new = [record for record in some if _key_of(record) not in kept]
            _part(folder, mark, list(_lines(new, keeping)))
            taken += len(new)
        part += 1
    compact_traffic_folder(folder, keeping, closed=sorted((folder / SEGMENTS).glob(f"log-{digest}-*.jsonl")))
    return taken


def _kept(folder: Path) -> set[int]:
    """The keys of all requests and opinions that are kept."""
    import polars as pl

    from luthier.traces.store import scan_table

    known = set[int]()
    names: tuple[tuple[Table, str], ...] = (("traces", "id"), ("feedback", "trace"))
    for table, name in names:
        columns = (name, pl.col("timestamp").dt.epoch("ms"))
        known.update(
            _key(table, id, moment) for id, moment in scan_table(folder, table).select(*columns).collect().rows()
        )
    return known


def _key_of(record: Trace | Feedback) -> int:
    moment = (record.timestamp - _EPOCH) // timedelta(milliseconds=1)
    return _key("traces", record.id, moment) if isinstance(record, Trace) else _key("feedback", record.trace, moment)


def _key(table: Table, id: str, moment: int) -> int:
    return xxhash.xxh3_64_intdigest(f"{table} {moment} {id}".encode())


def _part(folder: Path, mark: Path, lines: Sequence[SegmentLine]) -> None:
    """One part, put in its place by a rename; if only its mark was lost in a kill, it takes its own place again."""
    path = folder / SEGMENTS / f"log-{mark.name}.jsonl"
    paths = [*path.parent.glob(path.name), *(folder / "traces").glob(f"*/{path.stem}-*"), *_gone(folder, path)]
    if not paths:
        write_atomically(path, encode_lines(lines))
    with translate_write_errors(mark):
        mark.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(mark, os.O_CREAT | os.O_WRONLY, 0o600))


def _gone(folder: Path, path: Path) -> Iterator[Path]:
    return (folder / "gone").glob(f"{SEGMENTS}~{path.name}")


def _lines(records: Iterable[Trace | Feedback], keeping: RetentionPolicy) -> Iterator[SegmentLine]:
    redactor = Redactor(keeping)
    for record in records:
        is_trace = isinstance(record, Trace)  # of feedback, an empty field takes back what the person said before
        value = record.model_dump(mode="json", exclude_defaults=is_trace, exclude_unset=not is_trace)
        yield SegmentLine("traces" if is_trace else "feedback", redactor.record(value))
