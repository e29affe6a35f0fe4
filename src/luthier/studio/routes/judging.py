"""Asking people which answers are better: studies, how they stand, and the arena."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from luthier.annotation.queue import AnnotationQueue
from luthier.commands.projects.arena import Arena, list_arena_words, start_arena
from luthier.commands.projects.judging import (
    QUESTION_KINDS,
    StudyRequest,
    list_judged_evaluations,
    list_open_steps,
    open_study,
    publish_assignment,
    question_settings,
)
from luthier.core.errors import InputError, LuthierError, SourceLocation
from luthier.studio.pages import render
from luthier.studio.people import PersonDep, allow, require_recipe_right
from luthier.studio.state import FormDep, Studio, StudioDep, text_of

router = APIRouter()


@router.get("/judge", dependencies=[Depends(allow("label", anywhere=True))])
def studies(request: Request, studio: StudioDep, person: PersonDep) -> Response:
    """The studies in which a person can judge, and how far they are."""
    study_progresses = [
        study for study in studio.studies.list_all() if person.may("label", *studio.find_labelling(study.study.id))
    ]
    return render(request, "judge.html.jinja", studies=study_progresses)


@router.get("/projects/{name}/judge", dependencies=[Depends(allow("edit"))])
def new(
    request: Request, studio: StudioDep, name: str, evaluation: Annotated[str, Query(max_length=200)] = ""
) -> Response:
    """What can be asked about a project's evaluations."""
    return _new_page(request, studio, name, evaluation, None)


def _new_page(
    request: Request,
    studio: Studio,
    name: str,
    evaluation: str,
    error: LuthierError | None,
    form: FormData | None = None,
) -> Response:
    file = studio.find_recipe(name)
    evaluations = list_judged_evaluations(studio.workspace, file)
    chosen = next((entry for entry in evaluations if entry.step == evaluation), evaluations[0] if evaluations else None)
    written = {key: text_of(form, key) if form else "" for key in ("kind", "question", "rows", "overlap", "checks")}
    return render(
        request, "judge_new.html.jinja", 400 if error else 200, name=name, file=studio.workspace.shorten(file),
        evaluations=evaluations, chosen=chosen, kinds=QUESTION_KINDS, steps=list_open_steps(studio.workspace, file),
        error=error, written=written,
    )  # fmt: skip


@router.post("/projects/{name}/judge", dependencies=[Depends(allow("edit"))])
def create(request: Request, studio: StudioDep, form: FormDep, person: PersonDep, name: str) -> Response:
    """Begin a study."""
    file = studio.find_recipe(name)
    try:
        if step := text_of(form, "step"):
            project = publish_assignment(studio.workspace, studio.ledger, file, step, by=person.id)
        else:
            project = open_study(studio.workspace, studio.ledger, file, _request(form), by=person.id)
    except LuthierError as error:
        return _new_page(request, studio, name, text_of(form, "evaluation"), error, form)
    return RedirectResponse(f"/judge/{project.id}", 303)


def _request(form: FormData) -> StudyRequest:
    return StudyRequest(
        evaluation=text_of(form, "evaluation"),
        models=tuple(str(model) for model in form.getlist("models")),
        question=question_settings(text_of(form, "kind"), text_of(form, "question")),
        rows=_number(form, "rows", 100),
        overlap=_number(form, "overlap", 1),
        attention_checks=_number(form, "checks", 0),
    )


def _number(form: FormData, name: str, default: int) -> int:
    text = text_of(form, name).strip()
    if text and not (text.isascii() and text.isdigit() and len(text) < 7):
        raise InputError(f"expected a whole number, got {text[:40]!r}", where=SourceLocation(field=name))
    return int(text or default)


@router.get("/judge/{study}", dependencies=[Depends(allow("label"))])
def show(request: Request, studio: StudioDep, person: PersonDep, study: str) -> Response:
    """A study as those who judge see it: what is asked, and how far it is."""
    project = studio.studies.find(study)
    person_progress = AnnotationQueue(studio.ledger, study).person_progress(person.id)
    progress = studio.studies.progress(project)
    return render(
        request, "judge_study.html.jinja", study=project, progress=progress, mine=person_progress,
        address=str(request.url.replace(query="")), word=studio.studies.word(project),
    )  # fmt: skip


@router.get("/judge/{study}/results", dependencies=[Depends(allow("review"))])
def results(request: Request, studio: StudioDep, study: str) -> Response:
    """How the models stand."""
    return _results(request, studio, study, "judge_results.html.jinja")


@router.get("/judge/{study}/results/now", dependencies=[Depends(allow("review"))])
def results_now(request: Request, studio: StudioDep, study: str) -> Response:
    """The same without the page around it, for a page that follows the judgments."""
    return _results(request, studio, study, "judge_standings.html.jinja")


def _results(request: Request, studio: Studio, study: str, template: str) -> Response:
    project = studio.studies.find(study)
    progress, standings = studio.studies.progress(project), studio.studies.standings(project)
    word = studio.studies.word(project)
    return render(request, template, study=project, progress=progress, standings=standings, word=word)


@router.post("/judge/{study}/use", dependencies=[Depends(allow("edit"))])
def use(request: Request, studio: StudioDep, person: PersonDep, form: FormDep, study: str) -> Response:
    """Let the recipe take the judgments up, and run it."""
    require_recipe_right(request, person, study)
    file = studio.studies.take_up(studio.studies.find(study))
    added = studio.queue.add(studio.workspace.shorten(file))
    return RedirectResponse(f"/runs/{added.id}", 303)


@router.get("/projects/{name}/arena", dependencies=[Depends(allow("label"))])
def arena(request: Request, studio: StudioDep, name: str) -> Response:
    """Two models on one's own prompts, and how they stand."""
    return _arena(request, studio, name, "arena.html.jinja")


@router.get("/projects/{name}/arena/state", dependencies=[Depends(allow("label"))])
def arena_state(request: Request, studio: StudioDep, name: str) -> Response:
    """Whether the models are served, without the page around it."""
    return _arena(request, studio, name, "arena_state.html.jinja")


def _arena(request: Request, studio: Studio, name: str, template: str) -> Response:
    file = studio.find_recipe(name)
    words = list_arena_words(studio.workspace, file)
    served = len(studio.trial.words) > 1 and set(studio.trial.words) <= set(words)
    return render(
        request, template, name=name, file=studio.workspace.shorten(file), words=words, trial=studio.trial,
        served=served and studio.trial.state != "off", standings=Arena(studio.ledger, name).standings(),
    )  # fmt: skip


@router.post("/projects/{name}/arena/start", dependencies=[Depends(allow("edit"))])
def arena_start(studio: StudioDep, form: FormDep, name: str) -> Response:
    """Serve the models that are to compete."""
    words = [str(word) for word in form.getlist("words")]
    start_arena(studio.workspace, studio.trial, studio.find_recipe(name), words)
    return RedirectResponse(f"/projects/{name}/arena", 303)


@router.post("/projects/{name}/arena/stop", dependencies=[Depends(allow("edit"))])
def arena_stop(studio: StudioDep, form: FormDep, name: str) -> Response:
    """End them."""
    studio.find_recipe(name)
    studio.trial.stop()
    return RedirectResponse(f"/projects/{name}/arena", 303)


@router.post("/projects/{name}/arena/ask", dependencies=[Depends(allow("label"))])
async def arena_ask(request: Request, studio: StudioDep, form: FormDep, person: PersonDep, name: str) -> Response:
    """What two models answer, without their names."""
    try:
        battle = await Arena(studio.ledger, name).ask(studio.trial, text_of(form, "prompt"), person.id)
    except LuthierError as error:
        return render(request, "arena_battle.html.jinja", name=name, battle=None, error=error)
    return render(request, "arena_battle.html.jinja", name=name, battle=battle, error=None)


@router.post("/projects/{name}/arena/vote", dependencies=[Depends(allow("label"))])
def arena_vote(request: Request, studio: StudioDep, form: FormDep, person: PersonDep, name: str) -> Response:
    """Keep a vote, and tell whose answers they were."""
    reveal = Arena(studio.ledger, name).vote(text_of(form, "key"), text_of(form, "vote"), person.id)
    return render(request, "arena_reveal.html.jinja", name=name, reveal=reveal)


@router.get("/projects/{name}/arena/preferences.jsonl", dependencies=[Depends(allow("review"))])
def arena_preferences(studio: StudioDep, name: str) -> Response:
    """The votes as rows to train on."""
    studio.find_recipe(name)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in Arena(studio.ledger, name).preference_rows()]
    return Response(
        "".join(lines), media_type="application/jsonl",
        headers={"content-disposition": 'attachment; filename="arena-preferences.jsonl"'},
    )  # fmt: skip
