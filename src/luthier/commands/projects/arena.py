"""The arena: two of a project's models answer a user's prompt, blind; the user votes, and then sees their names.

Votes are answers to a question of kind `pair` in an annotation project: each prompt is an item of its author. They
enter the same strengths as ratings do.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from luthier.annotation.project import (
    AnnotationProject,
    NewItem,
    ProjectSettings,
    add_items,
    are_sides_swapped,
    create_project,
    item_from_json,
    list_projects,
    set_project_state,
)
from luthier.annotation.question import QuestionItem
from luthier.annotation.questions.comparison import PairQuestion
from luthier.annotation.queue import AnnotationQueue, AnswerSubmission
from luthier.commands.projects.trial import TrialModel, TrialQuestion, TrialServer, list_trial_models
from luthier.core.db import Ledger
from luthier.core.errors import InputError, UnknownName
from luthier.eval.human.rating import STUDY_QUESTION
from luthier.recipe.workspace import Workspace

if TYPE_CHECKING:
    from luthier.eval.human.standings import ModelStanding
    from luthier.metrics.anytime_ranking import PairStanding
    from luthier.metrics.bradley_terry import PairwiseComparison, Strength

ARENA = "Arena"


class ArenaBattle(NamedTuple):
    """Two answers to one prompt, without the names of who gave them."""

    key: str
    prompt: str
    answers: tuple[str, ...]


class ArenaReveal(NamedTuple):
    """A vote, and the models of the answers, in the displayed order."""

    vote: str
    models: tuple[str, ...]


class ArenaStandings(NamedTuple):
    """The ranking of an arena's models."""

    votes: int
    stop: str
    pairs: tuple[PairStanding, ...]
    strengths: tuple[ModelStanding, ...]
    effects: dict[str, Strength]


def list_arena_words(workspace: Workspace, file: Path) -> list[str]:
    """Return the models that can be served: the project's tuned models, and their base models."""
    return list(dict.fromkeys(word for model in list_trial_models(workspace, file) for word in model.words))


def start_arena(workspace: Workspace, trial: TrialServer, file: Path, words: Sequence[str]) -> None:
    """Serve the models that are to compete."""
    known = list_arena_words(workspace, file)
    chosen = [word for word in known if word in words]
    if len(chosen) < 2:
        raise InputError("two models or more compete", hint="choose at least two")
    trial.start(TrialModel(ARENA, chosen))


class Arena:
    """The arena of one project."""

    def __init__(self, ledger: Ledger, project: str) -> None:
        self._ledger, self._project = ledger, project

    def _find(self) -> AnnotationProject | None:
        ours = list_projects(self._ledger, purpose="judging", project=self._project)
        return next((our for our in ours if our.name == ARENA and not our.settings.assignment), None)

    def _queue(self, by: str) -> AnnotationQueue:
        project = self._find()
        if project is None:
            settings = ProjectSettings(purpose="judging", questions={STUDY_QUESTION: PairQuestion()})
            project = create_project(self._ledger, ARENA, settings, project=self._project, by=by)
            set_project_state(self._ledger, project.id, "closed")  # nobody is dealt another's prompts
        return AnnotationQueue(self._ledger, project.id)

    async def ask(self, trial: TrialServer, prompt: str, person: str) -> ArenaBattle:
        """Return the answers of two random served models to a prompt."""
        names = list(trial.names)
        if trial.state != "ready" or len(names) < 2:
            raise InputError("the models are not served", hint="start them first")
        drawn = secrets.SystemRandom().sample(names, 2)
        conversation = json.dumps([{"role": "user", "content": prompt}])
        questions = [TrialQuestion.parse(name, conversation) for name in drawn]
        answers = await asyncio.gather(*(_whole(trial, question) for question in questions))
        return await asyncio.to_thread(self.add, prompt, dict(zip(drawn, answers, strict=True)), person)

    def add(self, prompt: str, answers: dict[str, str], person: str) -> ArenaBattle:
        """Keep two models' answers for a person's vote."""
        queue, key = self._queue(person), secrets.token_hex(16)
        shown = QuestionItem(({"role": "user", "content": prompt},), tuple(answers.values()))
        add_items(
            self._ledger, queue.project_id, [NewItem(key, shown, {"models": list(answers), "person": person})]
        )  # fmt: skip
        item, _ = self._item(key, person)
        return ArenaBattle(key, prompt, queue.give_item(person, item).shown.answers)

    def _item(self, key: str, person: str) -> tuple[int, tuple[str, ...]]:
        """The id and the models of a prompt that a person wrote."""
        from sqlalchemy import select

        from luthier.core.db.tables.annotation import AnnotationItemRow

        item, project = AnnotationItemRow, self._find()
        with self._ledger.reading() as session:
            row = session.scalar(
                select(item).where(item.project_id == (project.id if project else ""), item.key == key)
            )  # fmt: skip
            if row is None or row.hidden.get("person") != person:
                raise UnknownName("this prompt is not one of yours")
            return row.id, tuple(row.hidden["models"])

    def vote(self, key: str, vote: str, person: str) -> ArenaReveal:
        """Keep a vote, the first of a prompt alone, and tell whose answers they were."""
        item, models = self._item(key, person)
        queue = self._queue(person)
        queue.submit(
            person, AnswerSubmission(id=f"arena-{key}", item=item, values={STUDY_QUESTION: vote})
        )  # fmt: skip
        ((_, _, _, kept),) = self._votes(key)
        swapped = are_sides_swapped(key, person)
        return ArenaReveal(
            str(PairQuestion().mirror(kept)) if swapped else kept, models[::-1] if swapped else models
        )  # fmt: skip

    def _votes(self, key: str | None = None) -> list[tuple[str, QuestionItem, tuple[str, ...], str]]:
        """Each vote, or that of one prompt: the prompt's key, what was shown, whose answers, and what was said of them
        as they are kept."""
        from sqlalchemy import select

        from luthier.core.db.tables.annotation import AnnotationItemRow, AnswerRow

        project = self._find()
        if project is None:
            return []
        item, row = AnnotationItemRow, AnswerRow
        query = select(item.key, item.shown, item.hidden, row.values).join(item, item.id == row.item_id)
        query = query.where(
            row.project_id == project.id, row.state == "kept", row.kind == "answer", ~row.decides
        ).order_by(row.id)
        with self._ledger.reading() as session:
            return [
                (entry, item_from_json(shown), tuple(hidden["models"]), str(values[STUDY_QUESTION]))
                for entry, shown, hidden, values in session.execute(
                    query if key is None else query.where(item.key == key)
                )
            ]

    def standings(self) -> ArenaStandings:
        """Strengths and bounds by all votes."""
        from luthier.eval.human.standings import fit_strengths
        from luthier.eval.human.tally import describe_advice
        from luthier.metrics.anytime_ranking import AnytimeRanking
        from luthier.metrics.bradley_terry import PairwiseComparison
        from luthier.metrics.style import style_difference

        votes, question = self._votes(), PairQuestion()
        models = sorted({model for _, _, both, _ in votes for model in both})
        if not votes:
            return ArenaStandings(0, "", (), (), {})
        ranking = AnytimeRanking(models)
        comparisons: list[PairwiseComparison] = []
        for key, shown, (a, b), verdict in votes:
            score = question.points(verdict, shown)[0]
            ranking.add(a, b, score, key)
            comparisons.append(PairwiseComparison(a, b, score, key, style_difference(*shown.answers)))
        strengths, effects = fit_strengths(comparisons, models)
        advice = describe_advice(ranking.advise(), ranking.rows)
        stop = advice if advice.endswith(".") else f"{advice}."
        return ArenaStandings(len(votes), stop, tuple(ranking.standings().values()), strengths, effects)

    def preference_rows(self) -> list[dict[str, object]]:
        """Prompt, chosen and rejected answer of each vote that preferred one: rows to train on."""
        question = PairQuestion()
        return [
            {"prompt": list(shown.messages), **taught}
            for _, shown, _, verdict in self._votes()
            if (taught := question.teaches(verdict, shown))
        ]


async def _whole(trial: TrialServer, question: TrialQuestion) -> str:
    return "".join([piece.text async for piece in trial.answer(question)])
