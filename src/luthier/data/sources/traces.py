"""What people asked a served model, and what they said of its answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AwareDatetime, Field, field_validator, model_validator

from luthier.core.digest import digest_of
from luthier.core.errors import DataError, InputError, LuthierError, Where
from luthier.core.paths import Environment, locate
from luthier.data.intake.choose import Choice
from luthier.data.row import Broken, Record
from luthier.data.source import Asked, Say, Source
from luthier.text.messages import as_openai
from luthier.traffic.place import is_traffic, traffic_folder

if TYPE_CHECKING:
    from luthier.data.intake.choose import Task
    from luthier.data.profile import ColumnProfile
    from luthier.text.messages import Message
    from luthier.traffic.read import Told

Makes = Literal["chat", "pairs", "verdicts", "labels"]
_WANTED: dict[Makes, str] = {
    "chat": "",
    "pairs": " and correction is not missing",
    "verdicts": " and rating is not missing",
    "labels": " and (label is not missing or (asked = 'label' and correction is not missing))",
}
_ANSWERED = "arm != 'shadow' and asked in ('chat', 'completion', 'label')"


class Traces(Source):
    """Requests to a served model as rows to learn from: answers, corrections, ratings and labels that people gave.

    A row is named by its request (`luthier trace chatcmpl-…` finds it) and grouped by who asked. What nobody may learn
    from is left out and counted. Personal data was taken out when the request was written.
    """

    kind: Literal["traces"] = "traces"

    path: Annotated[str, Field(min_length=1), Environment()] | None = None
    """The folder of the traffic; left out, the one beside the recipe, or `LUTHIER_TRAFFIC`."""
    makes: Makes = "chat"
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
            from luthier.traffic.filter import TraceFilter

            try:
                TraceFilter(where)
            except InputError as error:
                raise ValueError(f"{error.message}; {error.remedy}".rstrip("; ")) from error
        return where

    @model_validator(mode="after")
    def _moments_in_order(self) -> Traces:
        if self.since and self.until and self.since >= self.until:
            raise ValueError("`since` is not before `until`")
        return self

    def read(self, base: Path, say: Say) -> Iterator[Record | Broken]:
        """Yield every request in order of time; a row's file is its day, and its line the number on that day."""
        day: date | None = None
        line = 0
        for told in self._told(base):
            at = told.trace.at.astimezone(UTC).date()
            line = line + 1 if at == day else 1
            day = at
            file, key = f"traces/{day.isoformat()}", f"trace = {told.trace.id}"
            if why := self._why_not(told):
                yield Broken(file, line, why, key=key, left_out=True)
            else:
                yield Record(self._values(told), file, line, key)

    def asked(self, base: Path) -> Asked:
        """The system turn under which classes were chosen is that of the rows."""
        if self.makes != "labels":
            return super().asked(base)
        rows = (one.values for one in self.read(base, lambda text: None) if isinstance(one, Record))
        if not any("system" in row for row in rows):
            return Asked({}, {})
        return Asked({"system_column": "system"}, {"system_column": "what the model was told when it was asked"})

    def choice(
        self, columns: Mapping[str, ColumnProfile], rows: Sequence[dict[str, Any]], name: str, task: Task | None
    ) -> Choice:
        """True classes stand where it writes them, be they all the same."""
        if self.makes != "labels" or self.prompt or self.answer:
            return super().choice(columns, rows, name, task)
        reasons = {"prompt": "what was asked", "answer": "the true class, as people said it"}
        return Choice({"prompt": "text", "answer": "label"}, reasons, is_label=True)

    def _told(self, base: Path) -> Iterator[Told]:
        """Requests that are meant; `DataError` when no traffic is kept."""
        from luthier.traffic.filter import TraceFilter
        from luthier.traffic.read import told

        folder = self._folder(base)
        if not is_traffic(folder):
            remedy = "`luthier serve` keeps it, `luthier traces import` takes logs in"
            raise DataError("no traffic is kept here", where=Where(file=str(folder), field="path"), remedy=remedy)
        condition = TraceFilter(f"({self.where}) and {self._meant}" if self.where else self._meant)
        return told(folder, self.since, self.until, condition, heard=self.until)

    @property
    def _meant(self) -> str:
        return _ANSWERED + _WANTED[self.makes]

    def _folder(self, base: Path) -> Path:
        return locate(self.path, base) if self.path else traffic_folder(base)

    def _why_not(self, told: Told) -> str:
        """Why nothing can be learnt from a request; empty when something can."""
        if not told.trace.consent:
            return "nobody may learn from it (consent)"
        if not told.trace.messages:
            return "what was asked was not kept"
        if self.makes == "labels" or (self.makes == "chat" and _last(told, "correction")):
            return ""
        if told.trace.answer is None or told.trace.finish in ("cancelled", "error"):
            return "was not answered"
        return self._unwanted(told, told.trace.answer.content)

    def _unwanted(self, told: Told, answer: str) -> str:
        """Why an answer that was given is not one to learn from."""
        if self.makes == "pairs" and _last(told, "correction").strip() == answer.strip():
            return "the correction says the same"
        if self.makes == "chat" and (_rating(told) or 0) < 0:
            return "people did not like the answer, and nobody said a better one"
        return "people are of two minds" if self.makes == "verdicts" and _rating(told) == 0 else ""

    def _values(self, told: Told) -> dict[str, Any]:
        trace, correction = told.trace, _last(told, "correction")
        asked = as_openai(trace.messages)
        given = as_openai([trace.answer])[0] if trace.answer else {}
        about = {
            "trace": trace.id,
            "at": trace.at.astimezone(UTC).isoformat(),
            "model": trace.model,
            "release": trace.release,
            "user": trace.user or "",
            "rating": _rating(told),
            "comment": _last(told, "comment"),
            **trace.meta,
        }
        if self.makes == "pairs":
            return {"prompt": asked, "chosen": correction, "rejected": trace.answer and trace.answer.content, **about}
        if self.makes == "labels":
            system = {"system": text} if (text := _system(trace.messages)) else {}
            label = _last(told, "label") or correction
            return {"text": _question(trace.messages), "label": label, **system, **about}
        better = {"role": "assistant", "content": correction} if correction and self.makes == "chat" else given
        verdict = {"label": (_rating(told) or 0) > 0} if self.makes == "verdicts" else {}
        return {"messages": [*asked, better], **verdict, **about}

    @property
    def living(self) -> bool:
        """Requests come while rows are read."""
        return True

    def fingerprint(self, base: Path) -> str | None:
        """A digest of the rows; None when no traffic is kept (`read` says so)."""
        try:
            return digest_of([json.dumps(record, default=str) for record in self.read(base, lambda text: None)])
        except LuthierError:
            return None

    def size(self, base: Path) -> int | None:
        """The characters of all rows."""
        try:
            return sum(len(json.dumps(record, default=str)) for record in self.read(base, lambda text: None))
        except LuthierError:
            return None


def _last(told: Told, name: str) -> str:
    """What was said last of several people's words."""
    found = [getattr(one, name) for one in sorted(told.feedback, key=lambda one: one.at) if getattr(one, name)]
    return str(found[-1]) if found else ""


def _rating(told: Told) -> float | None:
    ratings = [one.rating for one in told.feedback if one.rating is not None]
    return sum(ratings) / len(ratings) if ratings else None


def _question(messages: tuple[Message, ...]) -> str:
    return "\n".join(turn.content for turn in messages if turn.role == "user")


def _system(messages: tuple[Message, ...]) -> str:
    return "\n".join(turn.content for turn in messages if turn.role == "system")


def choose(base: Path, settings: Mapping[str, Any]) -> Makes:
    """What requests say most about: corrections, true classes, or else whole answers."""
    found: dict[Makes, int] = {}
    makes: Makes
    for makes in ("labels", "pairs", "chat"):
        source = Traces.model_validate({**settings, "kind": "traces", "makes": makes})
        found[makes] = sum(isinstance(one, Record) for one in source.read(base, lambda text: None))
    if not any(found.values()):
        what = "no request that is meant can be learnt from"
        remedy = (
            "`luthier traces list --where …` shows which are meant; corrections, ratings and labels come as feedback"
        )
        raise DataError(what, where=Where(field="--where"), remedy=remedy)
    return max(found, key=lambda makes: (found[makes] if makes != "chat" else 0, makes == "chat"))
