"""Review queues: which requests are drawn and with what chance, and what reviewers are asked about them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from luthier.annotation.project import (
    AnnotationProject,
    ProjectSettings,
    create_project,
    get_project,
    list_projects,
    set_project_state,
    update_guidelines,
)
from luthier.annotation.question import LabelOption
from luthier.annotation.questions.choice import ChoiceQuestion, ChoicesQuestion
from luthier.annotation.questions.spans import SpansQuestion
from luthier.annotation.questions.text import TextQuestion
from luthier.annotation.queue import AnnotationQueue, QueueProgress
from luthier.commands.projects.workspace import find_project_file, project_id
from luthier.core.component import add_field_descriptions
from luthier.core.db import Ledger
from luthier.core.errors import InputError, SourceLocation, UnknownName
from luthier.recipe.workspace import Workspace
from luthier.traces.filter import TraceFilter

if TYPE_CHECKING:
    from luthier.annotation.question import Question

VERDICTS = ("right", "wrong", "unsure")
FAILURE_TYPES = ("incorrect", "incomplete", "made up", "off topic", "wrong tone", "refused", "unsafe")
"""What reviewers can name from the beginning; they add their own."""
_MOST_TYPES = 200
_CONFIG = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)


class ReviewRule(BaseModel):
    """Some requests, and the share of them that is drawn. A request that several rules mean is drawn by the highest
    share."""

    model_config = _CONFIG

    name: Annotated[str, Field(min_length=1, max_length=60)]
    """How the page calls it."""
    where: str = ""
    """Which requests, such as `rating < 0`; empty: all."""
    shadow: bool = False
    """Only those to which a shadow gave another answer."""
    alerts: bool = False
    """Only those that alerts of the project's monitor name."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The chance with which each is drawn."""

    @field_validator("where")
    @classmethod
    def _can_be_read(cls, where: str) -> str:
        return check_condition(where)

    @property
    def means_all(self) -> bool:
        """Whether it means every request."""
        return not (self.where or self.shadow or self.alerts)


def check_condition(where: str) -> str:
    """A condition as it is kept; `ValueError` where it cannot be read."""
    if where.strip():
        try:
            TraceFilter(where)
        except InputError as error:
            raise ValueError(f"{error.message}; {error.hint}".rstrip("; ")) from error
    return where.strip()


class ReviewSettings(BaseModel):
    """How a queue is filled."""

    model_config = _CONFIG

    rules: Annotated[tuple[ReviewRule, ...], Field(min_length=1, max_length=20)]
    """Which requests are drawn."""
    where: str = ""
    """Of which requests at all, such as `model = "support@prod"`; figures speak of these."""
    since: AwareDatetime
    """From when on."""

    @field_validator("where")
    @classmethod
    def _can_be_read(cls, where: str) -> str:
        return check_condition(where)

    @model_validator(mode="after")
    def _names_differ(self) -> ReviewSettings:
        names = [rule.name for rule in self.rules]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two rules are named {twice!r}")
        return self

    @property
    def speaks_of_all(self) -> bool:
        """Whether every request has a chance, so that figures hold for all."""
        return any(rule.means_all for rule in self.rules)


def build_rules(
    *,
    where: str = "",
    chance: float = 0.0,
    low_confidence: float = 0.0,
    thumbs_down: bool = False,
    shadow: bool = False,
    alerts: bool = False,
) -> tuple[ReviewRule, ...]:
    """The usual rules, as a form or a command names them; each but chance draws all that it means."""
    review_rules = [
        ReviewRule(name="condition", where=where) if where.strip() else None,
        ReviewRule(name="thumbs down", where="rating < 0") if thumbs_down else None,
        ReviewRule(name="low confidence", where=f"confidence < {low_confidence:g}") if low_confidence else None,
        ReviewRule(name="shadow disagrees", shadow=True) if shadow else None,
        ReviewRule(name="alerts", alerts=True) if alerts else None,
        ReviewRule(name="chance", share=chance) if chance else None,
    ]
    return tuple(rule for rule in review_rules if rule is not None)


def build_settings(*, only: str = "", since: datetime, **rules: Any) -> ReviewSettings:
    """The settings of a queue from what a form or a command says; `InputError` for what is no rule."""
    try:
        return ReviewSettings(rules=build_rules(**rules), where=only, since=since)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "too_short":
            what, hint = "no requests are meant to be drawn", "draw some by chance, such as 0.02, or by a condition"
        else:
            what, _, hint = str(first["msg"]).removeprefix("Value error, ").partition("; ")
        where = SourceLocation(field=str(first["loc"][-1]) if first["loc"] else "rules")
        raise InputError(what, where=where, hint=hint) from error


def find_review_project(workspace: Workspace, name: str | None) -> str:
    """The id of the project that is named; the only one of the workspace where none is."""
    if name is not None:
        find_project_file(workspace, name)
        return name
    every = [project_id(workspace, file) for file in workspace.list_recipes()]
    if len(every) != 1:
        what = f"{len(every)} recipes are here" if every else "there is no recipe here"
        raise InputError(what, where=SourceLocation(field="--project"), hint=f"name one: {', '.join(every[:10])}")
    return every[0]


@dataclass(frozen=True)
class ReviewQueue:
    """A queue as it stands."""

    annotation: AnnotationProject
    settings: ReviewSettings
    filled_at: datetime | None
    progress: QueueProgress

    @property
    def id(self) -> str:
        """What addresses call it."""
        return self.annotation.id

    @property
    def name(self) -> str:
        """How people call it."""
        return self.annotation.name

    @property
    def project(self) -> str:
        """The id of the project whose model is reviewed."""
        return self.annotation.project

    @property
    def failure_types(self) -> tuple[str, ...]:
        """The types of failure that reviewers can name."""
        question = self.annotation.settings.questions["types"]
        assert isinstance(question, ChoicesQuestion), "it was made so"
        return tuple(label.name for label in question.labels)

    def as_json(self) -> dict[str, Any]:
        """As other programs read it."""
        return {
            "id": self.id, "name": self.name, "project": self.project, "state": self.annotation.state,
            "filled_at": self.filled_at and self.filled_at.isoformat(), **self.progress._asdict(),
            "rules": [rule.model_dump(exclude_defaults=True) for rule in self.settings.rules],
        }  # fmt: skip


def create_review_queue(ledger: Ledger, name: str, settings: ReviewSettings, *, project: str, by: str) -> ReviewQueue:
    """Begin a queue of a project's requests; it is empty until it is filled."""
    from luthier.core.db.tables.annotation import ReviewQueueRow

    asks = ProjectSettings(
        purpose="review",
        questions=_questions(FAILURE_TYPES),
        optional=("label", "correction", "types", "marks"),
        order="priority",
        hidden_proposal_share=0.0,
    )
    made = create_project(ledger, name, asks, project=project, by=by)
    with ledger.writing() as session:
        session.add(ReviewQueueRow(project_id=made.id, settings=settings.model_dump(mode="json"), filled_at=None))
    return get_review_queue(ledger, made.id)


def _questions(types: tuple[str, ...]) -> dict[str, Question]:
    labels = tuple(LabelOption(name=name) for name in types)
    verdicts = tuple(LabelOption(name=name, key=name[0] if name != "unsure" else "n") for name in VERDICTS)
    return {
        "verdict": ChoiceQuestion(question="Is the answer right?", labels=verdicts),
        "label": TextQuestion(question="Which class is right?", max_length=1024),
        "correction": TextQuestion(question="What should it have said?", max_length=100_000),
        "types": ChoicesQuestion(question="What is wrong with it?", labels=labels),
        "marks": SpansQuestion(question="Where?", labels=labels),
    }


def add_failure_types(ledger: Ledger, queue: ReviewQueue, types: list[str], *, by: str) -> None:
    """Let reviewers name further types of failure from now on."""
    known = queue.failure_types
    new = [name for name in dict.fromkeys(" ".join(kind.split())[:100] for kind in types) if name and name not in known]
    if new:
        if len(known) + len(new) > _MOST_TYPES:
            raise InputError(f"a queue has at most {_MOST_TYPES} types of failure", hint="name one of those that exist")
        questions = {**queue.annotation.settings.questions, **_questions((*known, *new))}
        update_guidelines(ledger, queue.id, questions=questions, by=by)


def get_review_queue(ledger: Ledger, queue_id: str) -> ReviewQueue:
    """One queue; `UnknownName` where there is none."""
    from luthier.core.db.tables.annotation import ReviewQueueRow

    with ledger.reading() as session:
        row = session.get(ReviewQueueRow, queue_id)
        if row is None:
            raise UnknownName(f"there is no review queue {queue_id[:80]!r}", hint="`luthier review status` lists them")
        settings, filled_at = ReviewSettings.model_validate(row.settings), row.filled_at
    progress = AnnotationQueue(ledger, queue_id).progress()
    return ReviewQueue(get_project(ledger, queue_id), settings, filled_at, progress)


def list_review_queues(ledger: Ledger, *, project: str | None = None, only_open: bool = False) -> list[ReviewQueue]:
    """All queues, or those of a project; the latest first."""
    projects = list_projects(ledger, purpose="review", project=project)
    return [get_review_queue(ledger, entry.id) for entry in projects if entry.state == "open" or not only_open]


def close_review_queue(ledger: Ledger, queue_id: str, *, again: bool = False) -> None:
    """Fill a queue no more and give nothing of it out; or, `again`, go on."""
    set_project_state(ledger, get_review_queue(ledger, queue_id).id, "open" if again else "closed")


def find_review_queue(ledger: Ledger, word: str | None) -> ReviewQueue:
    """A queue by its id or its name; the only open one where none is named."""
    review_queues = list_review_queues(ledger, only_open=word is None)
    meant = [
        review_queue for review_queue in review_queues if word is None or word in (review_queue.id, review_queue.name)
    ]
    if len(meant) == 1:
        return meant[0]
    known = ", ".join(f"{review_queue.id} ({review_queue.name})" for review_queue in review_queues)
    what = f"there is no review queue {word!r}" if word and not meant else f"{len(meant)} review queues are meant"
    raise UnknownName(what, hint=f"name one of {known}" if known else "`luthier review create NAME` makes one")
