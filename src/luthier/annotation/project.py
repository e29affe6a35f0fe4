"""Annotation projects: what is asked of whom about which items, and the versions of the guidelines."""

from __future__ import annotations

import hashlib
import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luthier.annotation.media import MediaLocation
from luthier.annotation.question import AnswerValue, InvalidAnswer, Question, QuestionItem
from luthier.core.component import add_field_descriptions
from luthier.core.db import Ledger
from luthier.core.errors import InputError, SourceLocation, UnknownName
from luthier.core.events import format_counted_noun

if TYPE_CHECKING:
    from sqlalchemy import Dialect, Table
    from sqlalchemy.orm import Session

    from luthier.core.db.tables.annotation import AnnotationProjectRow, GuidelineRow

Value = TypeVar("Value")
Purpose = Literal["labeling", "judging", "review"]
Order = Literal["given", "random", "priority"]
_BATCH = 2000
_ADDED = 10_000
"""Items that are added in one transaction: fewer would write the pages of the table again and again."""
_ID_BITS = 52
"""Of an item's id: what a browser's numbers hold exactly."""
Share = Annotated[float, Field(ge=0, le=1)]


class ProjectSettings(BaseModel):
    """What is asked about the items of a project, and how they are given out."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    purpose: Purpose = "labeling"
    assignment: str = ""
    """Of judging: the digest of the artifact that says whose answers the items show; empty where there is none."""
    media: MediaLocation | None = None
    """What keeps the pictures and sounds of the items, if they have any; None for a data set of text alone, and for
    requests, whose media the traffic keeps."""
    questions: Annotated[dict[str, Question], Field(min_length=1)]
    """The questions by name, in the order in which they are asked."""
    optional: tuple[str, ...] = ()
    """The names of questions that may be left out."""
    guidelines: str = ""
    """How to answer, in the words of whoever asks."""
    overlap: Annotated[int, Field(ge=1, le=100)] = 1
    """How many people answer each item."""
    gold_share: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """The share of items with a known answer among those that a person gets."""
    lease_minutes: Annotated[float, Field(gt=0, le=10_080)] = 30
    """How long an item stays with a person who has not answered it."""
    order: Order = "given"
    """`given`: as the items were added; `random`: by chance; `priority`: the highest priority first."""
    hidden_proposal_share: Share = 0.1
    """The share of items whose proposal is hidden, so that its influence can be measured."""
    qualification: Annotated[int, Field(ge=0, le=1000)] = 0
    """How many items with a known answer a person must answer right before the others come."""

    @model_validator(mode="after")
    def _optional_are_questions(self) -> ProjectSettings:
        if unknown := [name for name in self.optional if name not in self.questions]:
            raise ValueError(f"`optional` names no question: {', '.join(unknown)}")
        return self

    def check(
        self, values: Mapping[str, AnswerValue], item: QuestionItem, *, whole: bool = True
    ) -> dict[str, AnswerValue]:
        """The values of an answer as they are kept; `InvalidAnswer` names the question that does not accept its own.

        `whole`: only what is optional may be left out.
        """
        if unknown := [name for name in values if name not in self.questions]:
            raise InvalidAnswer(f"there is no question {unknown[0]!r}")
        kept = {}
        for name, question in self.questions.items():
            if name in values:
                try:
                    kept[name] = question.check(values[name], item)
                except InvalidAnswer as error:
                    raise InvalidAnswer(f"{name}: {error}") from error
            elif whole and name not in self.optional:
                raise InvalidAnswer(f"{name}: there is no answer")
        return kept

    def agrees(
        self, values: Mapping[str, AnswerValue], other: Mapping[str, AnswerValue], item: QuestionItem
    ) -> bool | None:
        """Whether two answers are the same in all questions that both answer; None where they share none."""
        shared = [name for name in self.questions if name in values and name in other]
        same = (
            self.questions[name].to_comparable(values[name], item)
            == self.questions[name].to_comparable(other[name], item)
            for name in shared
        )
        return all(same) if shared else None


@dataclass(frozen=True)
class AnnotationProject:
    """A project as it stands."""

    id: str
    name: str
    project: str
    """The id of the recipe that it belongs to; empty where it belongs to none."""
    settings: ProjectSettings
    guideline_version: int
    state: Literal["open", "closed"]
    created_at: datetime
    created_by: str


@dataclass(frozen=True)
class GuidelineVersion:
    """The guidelines and questions of a project from one moment on."""

    version: int
    text: str
    questions: Mapping[str, Question]
    made_at: datetime
    made_by: str


class NewItem(NamedTuple):
    """An item that is added to a project."""

    key: str
    """What it is called where it comes from; once in a project."""
    shown: QuestionItem
    hidden: Mapping[str, Any] = {}
    """What nobody who answers may see: the model, the row, the request."""
    proposal: Mapping[str, AnswerValue] | None = None
    """An answer by a model, by question."""
    gold: Mapping[str, AnswerValue] | None = None
    """The known answer, by question: the item then checks people and is answered by each once."""
    priority: float = 0.0
    probability: float | None = None
    """With which probability it was drawn."""
    overlap: int | None = None
    """How many people answer it; None: as the project says."""


@dataclass(frozen=True)
class AnnotationItem:
    """An item of a project, with all that is known of it: for owners and reviewers only."""

    id: int
    key: str
    shown: QuestionItem
    state: str
    overlap: int
    answered: int
    hidden: Mapping[str, Any] = field(default_factory=dict)
    proposal: Mapping[str, AnswerValue] | None = None
    gold: Mapping[str, AnswerValue] | None = None
    probability: float | None = None
    added_at: datetime | None = None


def create_project(
    ledger: Ledger, name: str, settings: ProjectSettings, *, project: str = "", by: str
) -> AnnotationProject:
    """Begin a project; `project` is the id of the recipe that it belongs to."""
    from luthier.core.db.tables.annotation import AnnotationProjectRow

    if not name.strip():
        raise InputError("a labeling project needs a name", where=SourceLocation(field="name"))
    now = datetime.now(UTC)
    with ledger.writing() as session:
        row = AnnotationProjectRow(
            id=secrets.token_hex(6), name=name.strip(), project=project, settings=_plain_settings(settings),
            guideline_version=1, order_version=0, state="open", created_at=now, created_by=by,
        )  # fmt: skip
        session.add(row)
        session.flush()
        version = _version(row.id, 1, settings.guidelines, settings.questions, by, now)
        session.add(version)
        return _to_project(row, version)


def get_project(ledger: Ledger, project_id: str) -> AnnotationProject:
    """One project; `UnknownName` where there is none."""
    with ledger.reading() as session:
        return load_project(session, project_id)


def find_recipe_of(ledger: Ledger, project_id: str) -> str:
    """The id of the recipe that a project belongs to; empty where it belongs to none, or there is no such project."""
    from luthier.core.db.tables.annotation import AnnotationProjectRow

    with ledger.reading() as session:
        row = session.get(AnnotationProjectRow, project_id)
        return row.project if row is not None else ""


def load_project(session: Session, project_id: str) -> AnnotationProject:
    """The same inside a transaction."""
    from luthier.core.db.tables.annotation import GuidelineRow

    row = _row(session, project_id)
    version = session.get_one(GuidelineRow, (project_id, row.guideline_version))
    return _to_project(row, version)


def list_projects(
    ledger: Ledger, *, purpose: Purpose | None = None, project: str | None = None
) -> list[AnnotationProject]:
    """The projects of a purpose and a recipe, the latest first; all by default."""
    from sqlalchemy import select

    from luthier.core.db.tables.annotation import AnnotationProjectRow, GuidelineRow

    both = (GuidelineRow.project_id == AnnotationProjectRow.id) & (
        GuidelineRow.version == AnnotationProjectRow.guideline_version
    )
    query = select(AnnotationProjectRow, GuidelineRow).join(GuidelineRow, both)
    if project is not None:
        query = query.where(AnnotationProjectRow.project == project)
    with ledger.reading() as session:
        rows = session.execute(query.order_by(AnnotationProjectRow.created_at.desc())).all()
        projects = [_to_project(row, version) for row, version in rows]
    return [entry for entry in projects if purpose in (None, entry.settings.purpose)]


def set_project_state(ledger: Ledger, project_id: str, state: Literal["open", "closed"]) -> None:
    """Close a project, so that nobody gets items of it any more (answers still arrive); or open it again."""
    with ledger.writing() as session:
        _row(session, project_id).state = state


def list_guidelines(ledger: Ledger, project_id: str) -> list[GuidelineVersion]:
    """All versions, the latest first."""
    from sqlalchemy import select

    from luthier.core.db.tables.annotation import GuidelineRow

    query = select(GuidelineRow).where(GuidelineRow.project_id == project_id).order_by(GuidelineRow.version.desc())
    with ledger.reading() as session:
        return [
            GuidelineVersion(row.version, row.text, _questions(row), row.made_at, row.made_by)
            for row in session.scalars(query)
        ]


def update_guidelines(
    ledger: Ledger,
    project_id: str,
    *,
    guidelines: str | None = None,
    questions: Mapping[str, Question] | None = None,
    by: str,
) -> AnnotationProject:
    """A new version of the guidelines or the questions; answers keep the version that they were given under.

    Questions that answers, known answers or decisions would become invalid under are refused, with their number.
    """
    with ledger.writing() as session:
        before = load_project(session, project_id)
        settings = ProjectSettings.model_validate(
            dict(before.settings)
            | {"guidelines": before.settings.guidelines if guidelines is None else guidelines}
            | {"questions": dict(before.settings.questions if questions is None else questions)}
            | {"optional": _still_optional(before.settings, questions)}
        )
        if settings == before.settings:
            return before
        if settings.questions != before.settings.questions:
            _refuse_invalid(session, project_id, settings)
        row = _row(session, project_id)
        row.guideline_version += 1
        row.settings = _plain_settings(settings)
        version = _version(
            project_id, row.guideline_version, settings.guidelines, settings.questions, by, datetime.now(UTC)
        )
        session.add(version)
        return _to_project(row, version)


def _still_optional(before: ProjectSettings, questions: Mapping[str, Question] | None) -> tuple[str, ...]:
    """A question that is new may be left out, since answers of before have left it out."""
    if questions is None:
        return before.optional
    return tuple(name for name in questions if name in before.optional or name not in before.questions)


def _refuse_invalid(session: Session, project_id: str, settings: ProjectSettings) -> None:
    from sqlalchemy import select

    from luthier.core.db.tables.annotation import AnnotationItemRow, AnswerRow

    item = AnnotationItemRow
    answers = select(AnswerRow.values, item.shown).join(item, item.id == AnswerRow.item_id)
    answers = answers.where(AnswerRow.project_id == project_id, AnswerRow.state == "kept", AnswerRow.kind == "answer")
    known = select(item.gold, item.shown).where(item.project_id == project_id, item.gold_at.is_not(None))
    invalid, first = 0, ""
    for query in (answers, known):
        for values, shown in session.execute(query.execution_options(yield_per=_BATCH)):
            try:
                settings.check(values, item_from_json(shown), whole=query is answers)
            except InvalidAnswer as error:
                invalid, first = invalid + 1, first or str(error)
    if invalid:
        what = f"{format_counted_noun(invalid, 'answer')} would become invalid ({first})"
        hint = "add labels and questions, and rename or remove none that were used; or begin a new project"
        raise InputError(what, where=SourceLocation(field="questions"), hint=hint)


def update_settings(ledger: Ledger, project_id: str, **changes: Any) -> AnnotationProject:
    """Change how items are given out: `overlap`, `gold_share`, `lease_minutes`, `order`, `qualification`,
    `hidden_proposal_share` (of items that are added from then on), `optional`."""
    from sqlalchemy import case, update

    from luthier.core.db.tables.annotation import AnnotationItemRow

    if "questions" in changes or "guidelines" in changes:
        raise ValueError("questions and guidelines have versions: update_guidelines")
    item = AnnotationItemRow
    with ledger.writing() as session:
        before = load_project(session, project_id).settings
        settings = ProjectSettings.model_validate({**dict(before), **changes})
        row = _row(session, project_id)
        row.settings = _plain_settings(settings)
        row.order_version += 1
        ours = update(item).where(item.project_id == project_id)
        if settings.overlap != before.overlap:
            session.execute(ours.where(item.overlap == before.overlap).values(overlap=settings.overlap))
            full, column_element = item.answered >= item.overlap, item.answered + item.leased >= item.overlap
            queued = ours.where(item.state.in_(("open", "returned", "busy", "done")))
            session.execute(queued.values(state=case((full, "done"), (column_element, "busy"), else_="open")))
        if settings.order not in (before.order, "priority"):
            _reorder(session, project_id, settings.order)
        session.flush()
        return load_project(session, project_id)


def _reorder(session: Session, project_id: str, order: Order) -> None:
    """Let the items that are there wait as they were added, or by chance."""
    from sqlalchemy import bindparam, select, update

    table = item_table()
    ours = table.c.project_id == project_id
    if order == "given":
        session.execute(update(table).where(ours).values(rank=0.0))
        return
    statement = update(table).where(table.c.id == bindparam("which")).values(rank=bindparam("becomes"))
    for batch in iterate_batches(session.scalars(select(table.c.id).where(ours)).all(), _BATCH):
        session.connection().execute(statement, [{"which": item, "becomes": random.random()} for item in batch])


def add_items(ledger: Ledger, project_id: str, items: Iterable[NewItem]) -> int:
    """Add items, many at a time; one whose key is there already adds nothing. Returns how many were added."""
    from sqlalchemy import func, select

    from luthier.core.db.tables.annotation import AnnotationItemRow

    with ledger.reading() as session:
        settings, dialect = load_project(session, project_id).settings, session.get_bind().dialect
    to_driver = _list_conversions(dialect)
    defaults = _convert(_default_values(project_id, settings), to_driver)
    added = 0
    for rows in iterate_batches((_convert(_item_row(project_id, settings, item), to_driver) for item in items), _ADDED):
        with ledger.writing() as session:
            last = select(func.max(AnnotationItemRow.position)).where(AnnotationItemRow.project_id == project_id)
            first = (session.scalar(last) or 0) + 1
            added += _insert_new(
                session, [{**defaults, **row, "position": at} for at, row in enumerate(rows, start=first)]
            )
            _row(session, project_id).order_version += 1
    return added


def _list_conversions(dialect: Dialect) -> dict[str, Callable[[Any], Any]]:
    """How the columns of an item become what the driver takes, where that is something else."""
    found = {column.name: column.type.dialect_impl(dialect).bind_processor(dialect) for column in item_table().c}
    return {name: change for name, change in found.items() if change is not None}


def _convert(row: dict[str, Any], to_driver: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """A row as the driver takes it: flat, so that memory is not searched for cycles again and again."""
    for name in row.keys() & to_driver.keys():
        row[name] = None if row[name] is None else to_driver[name](row[name])
    return row


def _insert_new(session: Session, rows: list[dict[str, Any]]) -> int:
    """Insert those whose key is new, and return how many."""
    from sqlalchemy.dialects import postgresql, sqlite

    dialect = session.get_bind().dialect
    insert = sqlite.insert if dialect.name == "sqlite" else postgresql.insert
    statement = insert(item_table()).on_conflict_do_nothing(index_elements=["project_id", "key"])
    compiled = statement.compile(dialect=dialect, column_keys=list(rows[0]))
    parameters: list[Any] = rows
    if compiled.positiontup is not None:
        parameters = list(map(itemgetter(*compiled.positiontup), rows))
    return session.connection().exec_driver_sql(str(compiled), parameters).rowcount


def _default_values(project_id: str, settings: ProjectSettings) -> dict[str, Any]:
    """What most new items have; an item's row says where it differs."""
    return {
        "project_id": project_id, "rank": 0.0, "state": "open", "overlap": settings.overlap, "answered": 0, "leased": 0,
        "hidden": {}, "proposal": None, "proposal_shown": False, "gold": None, "gold_at": None, "probability": None,
        "added_at": datetime.now(UTC),
    }  # fmt: skip


def _item_row(project_id: str, settings: ProjectSettings, item: NewItem) -> dict[str, Any]:
    shown = {"messages": [dict(message) for message in item.shown.messages], "answers": list(item.shown.answers)}
    row: dict[str, Any] = {"id": _draw_id(), "key": item.key, "shown": shown}
    if settings.order == "priority":
        row["rank"] = -item.priority
    elif settings.order == "random":
        row["rank"] = _fraction("order", project_id, item.key)
    if item.hidden:
        row["hidden"] = dict(item.hidden)
    if item.proposal is not None:
        row["proposal"] = dict(item.proposal)
        row["proposal_shown"] = _fraction("proposal", project_id, item.key) >= settings.hidden_proposal_share
    if item.gold is not None:
        try:
            gold = settings.check(item.gold, item.shown, whole=False)
        except InvalidAnswer as error:
            raise InputError(f"the known answer of {item.key} is none: {error}") from error
        row |= {"gold": gold, "gold_at": datetime.now(UTC), "state": "gold"}
    if item.overlap is not None:
        row["overlap"] = item.overlap
    if item.probability is not None:
        row["probability"] = item.probability
    return row


def _draw_id() -> int:
    return int.from_bytes(secrets.token_bytes(8)) >> (64 - _ID_BITS)


def _fraction(*names: str) -> float:
    """A number from 0 to 1 that follows from names alone."""
    return int.from_bytes(hashlib.sha256("\0".join(names).encode()).digest()[:8]) / 2**64


def item_table() -> Table:
    """The table of items, for statements about many."""
    from sqlalchemy import Table

    from luthier.core.db.tables.annotation import AnnotationItemRow

    table = AnnotationItemRow.__table__
    assert isinstance(table, Table)
    return table


def iterate_batches(values: Iterable[Value], size: int) -> Iterator[list[Value]]:
    """The values, so many at a time."""
    left = iter(values)
    while batch := list(islice(left, size)):
        yield batch


def are_sides_swapped(key: str, annotator: str) -> bool:
    """Whether a person sees the two candidate answers of an item in the other order; it follows from both names."""
    return _fraction("sides", key, annotator) < 0.5


def item_from_json(shown: Mapping[str, Any]) -> QuestionItem:
    """What people see of an item, from the form in which it is kept."""
    return QuestionItem(tuple(shown["messages"]), tuple(shown["answers"]))


def _plain_settings(settings: ProjectSettings) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude={"questions", "guidelines"})


def _version(
    project_id: str, version: int, text: str, questions: Mapping[str, Question], by: str, moment: datetime
) -> GuidelineRow:
    from luthier.core.db.tables.annotation import GuidelineRow

    plain = [[name, question.settings()] for name, question in questions.items()]
    return GuidelineRow(
        project_id=project_id, version=version, text=text, questions={"inOrder": plain}, made_at=moment, made_by=by
    )  # fmt: skip


def _questions(row: GuidelineRow) -> dict[str, Question]:
    return {name: Question.parse(settings) for name, settings in row.questions["inOrder"]}


def _to_project(row: AnnotationProjectRow, version: GuidelineRow) -> AnnotationProject:
    settings = ProjectSettings.model_validate(
        {**row.settings, "questions": _questions(version), "guidelines": version.text}
    )
    return AnnotationProject(
        row.id, row.name, row.project, settings, row.guideline_version,
        "open" if row.state == "open" else "closed", row.created_at, row.created_by,
    )  # fmt: skip


def _row(session: Session, project_id: str) -> AnnotationProjectRow:
    from luthier.core.db.tables.annotation import AnnotationProjectRow

    row = session.get(AnnotationProjectRow, project_id)
    if row is None:
        raise UnknownName(f"there is no labeling project {project_id!r}")
    return row
