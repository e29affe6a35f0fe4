"""Source that reads the answers of an annotation project as training rows."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AwareDatetime, Field

from luthier.annotation.media import ItemMediaReader, list_message_media, split_content
from luthier.annotation.project import AnnotationProject, list_projects
from luthier.annotation.question import AnswerValue, Question, QuestionItem
from luthier.annotation.results import AnsweredItem, read_answered_items
from luthier.artifacts.annotation import Annotation
from luthier.core.db import Ledger, ledger_url
from luthier.core.errors import DataError, LuthierError, SourceLocation, did_you_mean
from luthier.core.files import EnvVarMarker, expand_env_vars
from luthier.core.hashing import digest_of
from luthier.data.adjudicator import AdjudicatedLabel, Adjudicator
from luthier.data.adjudicators.votes import MajorityAdjudicator
from luthier.data.annotation.annotations import JUDGMENTS, TOGETHER, judgment_to_json
from luthier.data.columns.choose import LayoutChoice, Task
from luthier.data.columns.layouts import Layout
from luthier.data.columns.mapping import ColumnMapping, decide_mapping
from luthier.data.columns.media import COLUMNS
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import Say, Source

if TYPE_CHECKING:
    from luthier.data.suggest.profile import ColumnProfile

_STORE = ".luthier"


class Annotations(Source):
    """What people answered in an annotation project of the studio: one row for each item that is decided.

    What the owner or a reviewer decided counts, then a known answer, then what the `rule` makes of the answers. A row
    keeps all answers in `meta.judgments`. With `until`, the rows stay the same however the work goes on.
    """

    kind: Literal["annotations"] = "annotations"

    project: str = Field(min_length=1)
    """The project: its id, or its name where no other has it."""
    question: str | None = None
    """Which question's answers are learnt; left out, the first."""
    until: AwareDatetime | None = None
    """What was answered before this moment, with its time zone: `2026-11-01T00:00:00Z`; left out, all."""
    rule: Adjudicator = MajorityAdjudicator()
    """How one answer is decided from several."""
    ledger: Annotated[str, Field(min_length=1), EnvVarMarker()] | None = None
    """The database, as a URL or a variable that holds it (`$LUTHIER_LEDGER`); left out, the one of the recipe's folder
    or of a folder above it."""
    id: str | None = "item"
    """The column that names a row already."""

    def read(self, recipe_dir: Path, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield every item in the order in which items were added; one that is not decided is left out."""
        with ExitStack() as opened:
            ledger, project = self._open(recipe_dir, opened)
            media = ItemMediaReader(ledger)
            opened.callback(media.close)
            yield from self._read_project(ledger, project, media, say)

    def _read_project(
        self, ledger: Ledger, project: AnnotationProject, media: ItemMediaReader | None, say: Say
    ) -> Iterator[SourceRecord | BrokenRow]:
        """The rows of a project; without a reader, digests stand in the place of the content of media."""
        name, question = self._question(project)
        answered_items = list(read_answered_items(ledger, project.id, until=self.until))
        votes = [_votes(answered_item, name, question) for answered_item in answered_items]
        verdicts = self.rule.decide(votes)
        file = f"annotations/{project.name}"
        answered = sum(bool(annotations) for annotations in votes)
        say(
            f"{project.name}: {answered} of {len(answered_items)} items are answered; "
            f"{question.question_text!r} is learnt"
        )
        for line, (one, judgments, verdict) in enumerate(
            zip(answered_items, votes, verdicts.decisions, strict=True), start=1
        ):
            key = f"item = {one.item.key}"
            value, why = _decide(one, name, question, judgments, verdict)
            row = None if why else _to_row(one.item.shown, question, value)
            if row is None:
                why = why or "nothing is learnt from this answer"
                yield BrokenRow(file, line, why, key=key, left_out=True)
                continue
            try:
                shown = _media_columns(one.item.shown, project, media)
            except (LuthierError, OSError) as error:
                problem = f"its picture or sound cannot be read: {getattr(error, 'message', error)}"
                yield BrokenRow(file, line, problem, key=key)
                continue
            about = {JUDGMENTS: [judgment_to_json(vote) for vote in judgments], "rule": self.rule.kind}
            yield SourceRecord({"item": one.item.key, **row, **shown, **about}, file, line, key)

    def mapping(self, good: list[SourceRecord]) -> ColumnMapping:
        """The rows say what they are: a text with its label, a conversation, or two answers of which one is better."""
        rows = [record.values for record in good]
        columns = {name for row in rows for name in row}
        layout = Layout(self.prompt, self.answer, self.messages, self.system_column, self.tools)
        if not (self.prompt or self.answer or self.messages):
            if "label" in columns:
                layout = Layout(prompt="text", answer="label", note="texts, answered by what people decided")
            elif "chosen" in columns:
                layout = Layout(prompt="prompt", answer="chosen", note="pairs of answers, as people chose", judged=True)
            else:
                layout = Layout(messages="messages", note="conversations, as people wrote them")
        return decide_mapping(layout, rows, good[0].file, system=self.system, group=self.group, key=self.id).without(
            self.null_values
        )

    def choice(
        self, columns: Mapping[str, ColumnProfile], rows: Sequence[dict[str, Any]], name: str, task: Task | None
    ) -> LayoutChoice:
        """Labels are classes, whatever they look like; everything else says itself what it is."""
        if self.prompt or self.answer:
            return super().choice(columns, rows, name, task)
        return LayoutChoice({}, {"project": "what people answered"}, is_label="label" in columns)

    @property
    def living(self) -> bool:
        """People go on answering while rows are read."""
        return self.until is None

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """A digest of the rows; None where there is no such project (`read` says so)."""
        try:
            return digest_of([json.dumps(record, default=str) for record in self._outline(recipe_dir)])
        except LuthierError:
            return None

    def size(self, recipe_dir: Path) -> int | None:
        """The characters of all rows."""
        try:
            return sum(len(json.dumps(record, default=str)) for record in self._outline(recipe_dir))
        except LuthierError:
            return None

    def _outline(self, recipe_dir: Path) -> list[SourceRecord | BrokenRow]:
        """The rows with the digests of their media alone."""
        with ExitStack() as opened:
            ledger, project = self._open(recipe_dir, opened)
            return list(self._read_project(ledger, project, None, lambda text: None))

    def _open(self, recipe_dir: Path, opened: ExitStack) -> tuple[Ledger, AnnotationProject]:
        """The ledger that has the project, and the project."""
        urls = self._ledgers(recipe_dir)
        names: list[str] = []
        for url in urls:
            ledger = opened.enter_context(Ledger(url))
            projects = list_projects(ledger)
            found = [project for project in projects if project.id == self.project]
            found = found or [project for project in projects if project.name == self.project]
            if len(found) > 1:
                ids = ", ".join(project.id for project in found)
                raise DataError(f"{len(found)} projects are called {self.project!r}", hint=f"write an id: {ids}")
            if found:
                return ledger, found[0]
            names += [project.name for project in projects]
        where = SourceLocation(file=str(recipe_dir), field="project")
        hint = did_you_mean(self.project, names) if names else "make one in the studio, or by `luthier label create`"
        raise DataError(f"there is no annotation project {self.project!r}", where=where, hint=hint)

    def _ledgers(self, recipe_dir: Path) -> list[str]:
        if self.ledger is not None:
            return [expand_env_vars(self.ledger)]
        start = recipe_dir.absolute()
        roots = [parent / _STORE for parent in (start, *start.parents)]
        return [ledger_url(root) for root in roots if (root / "ledger.db").is_file()]

    def _question(self, project: AnnotationProject) -> tuple[str, Question]:
        questions = project.settings.questions
        name = self.question or next(iter(questions))
        if name not in questions:
            where = SourceLocation(field="question")
            raise DataError(f"nobody was asked {name!r}", where=where, hint=did_you_mean(name, questions))
        return name, questions[name]


def _votes(one: AnsweredItem, name: str, question: Question) -> list[Annotation]:
    """What each person answered, in the form in which answers are compared, in the order of the people's names."""
    given = {answer.annotator: answer for answer in one.answers if name in answer.values}
    return [
        Annotation(
            annotator, question.to_comparable(answer.values[name], one.item.shown), question=name,
            time=answer.given_at.isoformat(), seconds=answer.seconds, comment=answer.comment,
        )
        for annotator, answer in sorted(given.items())
    ]  # fmt: skip


def _decide(
    one: AnsweredItem, name: str, question: Question, judgments: Sequence[Annotation], verdict: AdjudicatedLabel
) -> tuple[AnswerValue, str]:
    """The answer that counts, or why there is none."""
    if one.item.state == "removed":
        return None, "taken out by the owner"
    for known in (one.decision.values if one.decision else {}, one.item.gold or {}):
        if name in known:
            return known[name], ""
    if not judgments:
        return None, "flagged" if one.item.state == "flagged" else "not answered yet"
    if verdict.label is None:
        return None, verdict.why
    given = one.values(name)
    same = (value for value in given.values() if question.to_comparable(value, one.item.shown) == verdict.label)
    value = next(same, None)
    return (verdict.label if value is None else value), ""


def _media_columns(
    item: QuestionItem, project: AnnotationProject, media: ItemMediaReader | None
) -> dict[str, list[str]]:
    """The media of an item by column, in the order of their marks: the content of each as a data URL."""
    found: dict[str, list[str]] = {}
    for medium in item.media:
        if media is None:
            address = medium.digest
        elif project.settings.media is None:
            raise DataError(f"nothing keeps {medium.describe()}")
        else:
            content = base64.b64encode(media.read(project.settings.media, medium)).decode()
            address = f"data:{medium.kind}/{medium.format};base64,{content}"
        found.setdefault(COLUMNS[medium.kind], []).append(address)
    return found


def _with_marks(message: Mapping[str, Any]) -> dict[str, Any]:
    """A turn of an item with the marks of its media in their places, as sources write them."""
    media = list_message_media(message)
    if not media:
        return dict(message)
    marks = (f"<{part.medium.kind}>" if part.medium else part.text for part in split_content(message))
    return {**{name: value for name, value in message.items() if name != "media"}, "content": "\n".join(marks)}


def _to_row(item: QuestionItem, question: Question, value: AnswerValue) -> dict[str, Any] | None:
    """The columns of a training row; None where nothing is learnt from the answer."""
    item = item._replace(messages=tuple(map(_with_marks, item.messages)))
    taught = dict(question.teaches(value, item))
    turns = [dict(message) for message in item.messages]
    if not taught:
        return None
    if "labels" in taught:
        taught["label"] = TOGETHER.join(map(str, taught.pop("labels"))) or "none"
    if "rating" in taught and not item.answers:
        taught["label"] = str(taught.pop("rating"))
    if "label" in taught:
        return {"text": _text(item), **taught}
    if "chosen" in taught:
        return {"prompt": turns, **taught}
    if "messages" in taught:
        return taught
    answer = taught.pop("answer") if "answer" in taught else item.answers[0]
    return {"messages": [*turns, {"role": "assistant", "content": answer}], **taught}


def _text(item: QuestionItem) -> str:
    """What a label is about, as one text: the one message, or all turns with who said them."""
    turns = [*item.messages, *({"role": "assistant", "content": answer} for answer in item.answers)]
    if len(turns) == 1:
        return str(turns[0].get("content") or "")
    return "\n\n".join(f"{turn.get('role', '')}: {turn.get('content') or ''}" for turn in turns)
