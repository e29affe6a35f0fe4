"""Studies that are open to whoever has their link: begun from an evaluation, dealt by lease, counted as judgments come.

A study is a step `human_eval` of a project's recipe with `annotators: open`, and an annotation project in the studio's
ledger whose items are the step's.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.annotation.media import MediaLocation, locate_store
from luthier.annotation.project import (
    AnnotationProject,
    NewItem,
    ProjectSettings,
    add_items,
    create_project,
    get_project,
    list_projects,
)
from luthier.annotation.question import Question
from luthier.annotation.queue import AnnotationQueue
from luthier.commands.projects.workspace import check_recipe, find_project_file, load_plan, project_id, save_recipe
from luthier.commands.rate import RatingSession
from luthier.core.artifact import Artifact
from luthier.core.db import Ledger
from luthier.core.errors import InputError, LuthierError, SourceLocation, UnknownName
from luthier.core.system.process import python_command
from luthier.eval.human.rating import STUDY_QUESTION, list_studies
from luthier.eval.human.study import Assignment, read_assignment, read_rating_question
from luthier.eval.steps.human_eval import HumanEval
from luthier.eval.steps.human_ratings import HumanRatings
from luthier.recipe.edit import set_value
from luthier.recipe.locate import ArtifactRef
from luthier.recipe.planner import RecipePlan
from luthier.recipe.workspace import Workspace

if TYPE_CHECKING:
    from luthier.eval.human.standings import JudgeScores, StudyStandings

_PATIENCE_S = 180
_GUIDELINES = """Read the whole conversation first.

Judge what an answer says and leaves out, not how long it is or how it is laid out.

Skip what you cannot judge. Flag what nobody can."""
_EVERY_S = 5.0
_GOLD_SHARE = 0.1
"""At least so many of the items that a person gets are planted ones, where there are any left."""


QUESTION_KINDS = ("pair", "rating", "rubric", "faults")
"""The questions that can be asked, that of pairs first."""


class JudgedEvaluation(NamedTuple):
    """An evaluation of a project whose answers people can be asked about."""

    step: str
    models: tuple[str, ...]


class StudyRequest(NamedTuple):
    """What a study asks."""

    evaluation: str
    models: tuple[str, ...]
    question: Mapping[str, Any]
    """The settings of the question, its kind first."""
    rows: int = 100
    overlap: int = 1
    attention_checks: int = 0

    def settings(self) -> dict[str, Any]:
        """The settings of the step that draws the items."""
        return {
            "kind": HumanEval.model_fields["kind"].default, "evaluation": self.evaluation, "annotators": "open",
            "models": list(self.models), "question": dict(self.question), "rows": self.rows, "overlap": self.overlap,
            "attention_checks": self.attention_checks,
        }  # fmt: skip


def list_judged_evaluations(workspace: Workspace, file: Path) -> list[JudgedEvaluation]:
    """The evaluations of a recipe that are made, with the models that answered."""
    from luthier.artifacts.evaluation import EvaluationSummary

    plan = load_plan(workspace, file, costs=False)
    return [
        JudgedEvaluation(planned.name, EvaluationSummary.read(plan.store.open(planned.digest)).order)
        for planned in plan
        if planned.cached and planned.step.makes == "evaluation"
    ]


def list_open_steps(workspace: Workspace, file: Path) -> list[str]:
    """The steps of a recipe that are made and open to whoever has the link."""
    plan = load_plan(workspace, file, costs=False)
    return [
        planned.name
        for planned in plan
        if isinstance(planned.step, HumanEval) and planned.step.annotators == "open" and planned.cached
    ]


def open_study(
    workspace: Workspace, ledger: Ledger, file: Path, request: StudyRequest, *, by: str
) -> AnnotationProject:
    """Write the step that draws the items into the recipe, make it, and put its items into a queue."""
    known = {
        judged_evaluation.step: judged_evaluation.models
        for judged_evaluation in list_judged_evaluations(workspace, file)
    }
    if request.evaluation not in known:
        hint = "run the project first: its evaluation is not made, or the recipe changed since"
        raise UnknownName(f"there is no evaluation {request.evaluation[:80]!r} with answers", hint=hint)
    text = file.read_text(encoding="utf-8")
    taken = load_plan(workspace, file, costs=False).recipe.all_steps()
    step = next(name for number in range(1, 1000) if (name := f"ask{number if number > 1 else ''}") not in taken)
    changed = set_value(text, str(file), ("steps", step), request.settings())
    check_recipe(workspace, file, changed)
    save_recipe(workspace, file, changed)
    try:
        _make(workspace, file, step)
        return publish_assignment(workspace, ledger, file, step, by=by)
    except LuthierError:
        save_recipe(workspace, file, text)
        raise


def _make(workspace: Workspace, file: Path, step: str) -> None:
    """Make one step in a process of its own, as the command does that the page shows."""
    words = ["run", str(workspace.shorten(file)), "--only", step]
    process = subprocess.run(  # noqa: S603  # this very program
        python_command("-m", "luthier", *words), stdin=subprocess.DEVNULL, capture_output=True, check=False,
        text=True, timeout=_PATIENCE_S, cwd=workspace.folder, env={**environ, **workspace.environment},
    )  # fmt: skip
    if process.returncode:
        lines = [line for line in process.stderr.strip().splitlines() if line.strip()]
        raise InputError(" ".join(lines[-3:])[:600] or f"`luthier {' '.join(words)}` failed")


def publish_assignment(
    workspace: Workspace, ledger: Ledger, file: Path, step: str, *, by: str
) -> AnnotationProject:  # fmt: skip
    """Open the study of a step `human_eval` that is made and has `annotators: open`; the one that is there, if so."""
    plan = load_plan(workspace, file, costs=False)
    artifact = plan.artifact(step, "run {}")
    assignment, question = read_assignment(artifact), read_rating_question(artifact)
    if not assignment.is_open:
        where = SourceLocation(field=f"steps.{step}.annotators")
        raise InputError("this step names who judges", where=where, hint="write `annotators: open`")
    if not assignment.items:
        raise InputError("there is nothing to judge", hint="the models give the same answer in every row")
    if there := list_studies(ledger, artifact.digest):
        return there[0]
    planted = sum(entry.planted for entry in assignment.key.values())
    gold_share = min(0.5, max(_GOLD_SHARE, planted / len(assignment.items))) if planted else 0.0
    settings = ProjectSettings(
        purpose="judging", assignment=artifact.digest, questions={STUDY_QUESTION: question}, guidelines=_GUIDELINES,
        order="priority", overlap=assignment.overlap, gold_share=gold_share,
        media=_locate_media(plan, assignment, artifact, ledger),
    )  # fmt: skip
    name = f"{plan.recipe.name}: {step}"
    study = create_project(ledger, name, settings, project=project_id(workspace, file), by=by)
    add_items(ledger, study.id, _items(assignment, question))
    return study


def _locate_media(plan: RecipePlan, assignment: Assignment, artifact: Artifact, ledger: Ledger) -> MediaLocation | None:
    """What keeps the pictures and sounds of the rows that are judged; None where they hold text alone."""
    if not any(item.shown.media for item in assignment.items.values()):
        return None
    return locate_store(plan.store.location, ledger, artifact.parent("evaluation").parent("data").digest)


def _items(assignment: Assignment, question: Any) -> Iterator[NewItem]:
    from luthier.metrics.anytime_ranking import order_items

    pairs = {
        name: ((entry.models[0], entry.models[-1]), entry.row)
        for name, entry in assignment.key.items()
        if not entry.planted
    }
    priorities = order_items(pairs, dict.fromkeys((pair for pair, _ in pairs.values()), 1.0), {})
    for name, item in assignment.items.items():
        entry = assignment.key[name]
        yield NewItem(
            name, item.shown, {"row": entry.row, "models": list(entry.models)},
            gold={STUDY_QUESTION: question.gold(entry.good)} if entry.planted else None,
            priority=priorities.get(name, 0.0),
        )  # fmt: skip


class StudyProgress(NamedTuple):
    """How far a study is; it says nothing of whose answers are judged."""

    study: AnnotationProject
    judgments: int
    expected: int
    """Judgments of items that are not planted, when all are there."""
    planted: int


@dataclass
class _Board:
    """What is counted of one study."""

    session: RatingSession
    artifact: Artifact
    step: str | None
    looked_at: float = 0.0
    ordered: int = 0
    """How many judgments there were when the items were put in order."""
    scores: JudgeScores | None = None
    standings: StudyStandings | None = None
    counted: int = -1
    """The session's revision that the standings count."""
    turn: threading.Lock = field(default_factory=threading.Lock)


class StudyBook:
    """The open studies of a workspace, each read once and then counted as judgments come."""

    def __init__(self, workspace: Workspace, ledger: Ledger) -> None:
        self._workspace, self._ledger = workspace, ledger
        self._boards: dict[str, _Board] = {}
        self._turn = threading.Lock()
        self._looked_at = 0.0

    def list_all(self) -> list[StudyProgress]:
        """All studies, the latest first."""
        studies = [project for project in list_projects(self._ledger, purpose="judging") if project.settings.assignment]
        return [self.progress(study) for study in studies]

    def close(self) -> None:
        """Give back what studies hold open."""
        with self._turn:
            for board in self._boards.values():
                board.session.__exit__()
            self._boards.clear()

    def find(self, study_id: str) -> AnnotationProject:
        """A study by its id; `UnknownName` where there is none."""
        study = get_project(self._ledger, study_id)
        if study.settings.purpose != "judging" or not study.settings.assignment:
            raise UnknownName(f"there is no study {study_id[:80]!r}")
        return study

    def progress(self, study: AnnotationProject) -> StudyProgress:
        """How far it is, by the queue alone."""
        from luthier.annotation.queue import AnnotationQueue

        queue_progress = AnnotationQueue(self._ledger, study.id).progress()
        return StudyProgress(
            study, queue_progress.answers, queue_progress.items * study.settings.overlap, queue_progress.gold
        )

    def _board(self, study: AnnotationProject) -> _Board:
        with self._turn:
            if study.id not in self._boards:
                self._boards[study.id] = self._read(study)
            return self._boards[study.id]

    def _read(self, study: AnnotationProject) -> _Board:
        file = find_project_file(self._workspace, study.project)
        own = self._workspace.with_folder(file.parent)
        artifact = own.open_store().open(study.settings.assignment)
        plan = _plan_with(self._workspace, file, study.settings.assignment)
        step = next((planned.name for planned in plan or () if planned.digest == artifact.digest), None)
        with ExitStack() as opened:
            ledgers = [self._ledger]
            if own.has_ledger() and own.ledger_url != self._ledger.location:
                ledgers.append(opened.enter_context(own.open_ledger()))
            session = RatingSession(ArtifactRef(artifact, plan, step), ledgers, opened.pop_all())
        return _Board(session, artifact, step)

    def word(self, study: AnnotationProject) -> str:
        """What commands call it: the recipe's step."""
        file = self._workspace.shorten(find_project_file(self._workspace, study.project))
        return f"{file}:{self._board(study).step or 'STEP'}"

    def standings(self, study: AnnotationProject) -> StudyStandings:
        """How the models stand by the judgments that there are."""
        from luthier.eval.human.standings import compute_study_standings, read_judge_scores

        board = self._board(study)
        with board.turn:
            session = board.session
            session.refresh()
            if board.scores is None:
                board.scores = read_judge_scores(board.artifact.parent("evaluation"))
            if board.standings is None or board.counted != session.revision:
                board.counted = session.revision
                board.standings = compute_study_standings(
                    session.tally, session.assignment, session.question, session.models, board.scores
                )
            return board.standings

    def advance(self) -> None:
        """Put the items of open studies in order anew where enough was judged since; called again and again."""
        if time.monotonic() - self._looked_at < _EVERY_S:
            return
        self._looked_at = time.monotonic()
        for study in list_projects(self._ledger, purpose="judging"):
            if study.state == "open" and study.settings.assignment:
                self.reorder(study)

    def reorder(self, study: AnnotationProject) -> bool:
        """Let the pairs come first that decide most, where a tenth more was judged since; whether it did."""
        from luthier.metrics.anytime_ranking import order_items, rank_pairs

        board = self._board(study)
        with board.turn:
            board.session.refresh()
            tally, models = board.session.tally, board.session.models
            if len(models) < 3 or len(tally.ratings) < max(board.ordered * 1.1, board.ordered + 5):
                return False
            board.ordered, board.standings = len(tally.ratings), None
            undecided = tally.ranking.advise().undecided
            pairs = [(pair_standing.first, pair_standing.second) for pair_standing in undecided]
            gains = rank_pairs(models, tally.wins, pairs or [*tally.ranking.standings()])
            items = {
                name: (pair, entry.row)
                for name, entry in board.session.assignment.key.items()
                if not entry.planted
                for pair in _pairs_of(entry.models, gains)
            }
            order = order_items(items, gains, tally.row_judgments)
            AnnotationQueue(self._ledger, study.id).set_priorities(_by_id(self._ledger, study.id, order))
            return True

    def take_up(self, study: AnnotationProject) -> Path:
        """Write the judgments where the recipe reads them, and the step that does, if there is none; returns the
        recipe."""
        board = self._board(study)
        file = find_project_file(self._workspace, study.project)
        if board.step is None:
            hint = "the recipe, its data or Luthier changed since the study was begun; begin another one"
            raise InputError("the recipe no longer asks what this study asks", hint=hint)
        with board.turn:
            board.session.refresh()
            plan = load_plan(self._workspace, file, costs=False)
            reads = (
                planned
                for planned in plan
                if isinstance(planned.step, HumanRatings) and planned.step.assignment == board.step
            )
            if next(reads, None) is None:
                taken = plan.recipe.all_steps()
                step = next(
                    name for number in range(1, 1000) if (name := f"people{number if number > 1 else ''}") not in taken
                )
                value = {"kind": "human_ratings", "assignment": board.step, "file": f"judgments-{board.step}.jsonl"}
                text = set_value(file.read_text(encoding="utf-8"), str(file), ("steps", step), value)
                save_recipe(self._workspace, file, text)
                plan = load_plan(self._workspace, file, costs=False)
            board.session.found = ArtifactRef(board.artifact, plan, board.step)
            board.session.save()
        return file


def _plan_with(workspace: Workspace, file: Path, digest: str) -> RecipePlan | None:
    """The recipe's plan, if it still has the step that made an artifact."""
    try:
        plan = load_plan(workspace, file, costs=False)
    except LuthierError:
        return None
    return plan if any(planned.digest == digest for planned in plan) else None


def _pairs_of(models: Sequence[str], gains: Mapping[tuple[str, str], float]) -> list[tuple[str, str]]:
    """The pair that an item is of; of an answer alone, the pair of its model that tells most."""
    if len(models) == 2:
        return [(models[0], models[1])]
    return [max((pair for pair in gains if models[0] in pair), key=lambda pair: gains[pair])]


def _by_id(ledger: Ledger, study_id: str, priorities: Mapping[str, float]) -> dict[int, float]:
    """The same by the ids that items have in the queue."""
    from sqlalchemy import select

    from luthier.core.db.tables.annotation import AnnotationItemRow

    item = AnnotationItemRow
    with ledger.reading() as session:
        rows = session.execute(select(item.id, item.key).where(item.project_id == study_id)).all()
    return {number: priorities[key] for number, key in rows if key in priorities}


def question_settings(kind: str, text: str) -> dict[str, Any]:
    """The settings of a question by its kind and what it asks; `InputError` for one that gives no points."""
    from luthier.eval.human.study import check_gives_points

    settings = {"kind": kind, **({"question": text} if text.strip() else {})}
    try:
        check_gives_points(Question.parse(settings))
    except ValueError as error:
        raise InputError(str(error), where=SourceLocation(field="question")) from error
    return settings
