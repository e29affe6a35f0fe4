"""Runs: asked for, watched while they go on, stopped, gone on with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from luthier.commands.projects.recipe_form import build_recipe_form, list_first_settings
from luthier.commands.projects.workspace import (
    list_plan_steps,
    load_queued_plan,
    read_report,
    read_training_samples,
)
from luthier.core.errors import LuthierError, UnknownName
from luthier.recipe.schema import Recipe
from luthier.studio.message_templates import page_language
from luthier.studio.pages import render, report_headers
from luthier.studio.people import PersonDep, allow
from luthier.studio.state import FormDep, Studio, StudioDep, text_of
from luthier.studio.translation import choose_language
from luthier.studio.translation import gettext as _

router = APIRouter()
_EVERY_S = 1.0
_PLACE = "\0token\0"
"""Stands for the token of a session in what all share."""
_KEPT = 32
_QUIET_S = 15.0
"""A watcher hears something at least so often, so that a connection that is gone is noticed."""


@router.get("/runs", dependencies=[Depends(allow("view", anywhere=True))])
def runs(request: Request, studio: StudioDep, person: PersonDep) -> Response:
    """The queue, and what is over, of the projects that a person may see."""
    found = [(run, studio.project_of(run)) for run in studio.queue.all()]
    found = [(run, project) for run, project in found if person.may("view", project)]
    jobs = studio.queue.jobs() if person.may("view") else []
    return render(request, "runs.html.jinja", runs=found, jobs=jobs)


@router.get("/projects/{name}/run", dependencies=[Depends(allow("edit"))])
def edit_run(request: Request, studio: StudioDep, name: str, like: str = "") -> Response:
    """The form of a run with changed settings, like an earlier run."""
    overrides = studio.queue.get(like).overrides if like else []
    return _changes_page(request, studio, name, "\n".join(overrides))


def _changes_page(
    request: Request, studio: Studio, name: str, overrides: str, error: LuthierError | None = None
) -> Response:
    file = studio.find_recipe(name)
    form = build_recipe_form(studio.workspace, file.read_text(encoding="utf-8", errors="replace"), file)
    return render(
        request, "run_changes.html.jinja", 400 if error else 200, name=name, file=studio.workspace.shorten(file),
        overrides=overrides, error=error, settings=list_first_settings(form),
    )  # fmt: skip


@router.post("/projects/{name}/run", dependencies=[Depends(allow("edit", action="run.start"))])
def start(request: Request, studio: StudioDep, form: FormDep, name: str) -> Response:
    """Ask for a run of a project's recipe, with changes that are checked first."""
    file, written = studio.find_recipe(name), text_of(form, "overrides")
    overrides = [line.strip() for line in written.splitlines() if line.strip()]
    if overrides:
        try:
            Recipe.load(file, overrides, studio.workspace)
        except LuthierError as error:
            return _changes_page(request, studio, name, written, error)
    added = studio.queue.add(studio.workspace.shorten(file), overrides)
    return RedirectResponse(f"/runs/{added.id}", 303)


@router.get("/runs/{run}", dependencies=[Depends(allow("view"))])
def show(request: Request, studio: StudioDep, run: str) -> Response:
    """One run."""
    queued_run = studio.queue.get(run)
    project = studio.project_of(queued_run)
    with studio.reading:
        return render(request, "run.html.jinja", run=queued_run, project=project, log=studio.watch(queued_run))


@router.get("/runs/{run}/progress", dependencies=[Depends(allow("view"))])
def progress(request: Request, studio: StudioDep, run: str) -> Response:
    """How far a run is, without the page around it."""
    queued_run = studio.queue.get(run)
    with studio.reading:
        return render(request, "run_progress.html.jinja", run=queued_run, log=studio.watch(queued_run))


@router.get("/runs/{run}/events", dependencies=[Depends(allow("view"))])
async def events(request: Request, studio: StudioDep, run: str) -> Response:
    """How far a run is, again and again until it is over (server-sent events)."""
    await asyncio.to_thread(studio.queue.get, run)
    return StreamingResponse(_follow(request, studio, run), media_type="text/event-stream")


async def _follow(request: Request, studio: Studio, run: str) -> AsyncIterator[str]:
    """The pieces of a page that changed; what did not is not sent again."""
    before, quiet_s = "", 0.0
    while True:
        piece, over = await asyncio.to_thread(_piece, request, studio, run)
        if piece != before:
            before, quiet_s = piece, 0.0
            yield _event("progress", piece.replace(_PLACE, request.state.token))
        elif (quiet_s := quiet_s + _EVERY_S) >= _QUIET_S:
            quiet_s = 0.0
            yield ": still here\n\n"
        if over:
            yield _event("over", "over")
            return
        await asyncio.sleep(_EVERY_S)


def _piece(request: Request, studio: Studio, run: str) -> tuple[str, bool]:
    """What a watcher sees now, and whether it is over. It is written once a second for all who read one language, and
    held once; only the token of its forms, where `_PLACE` stands, is each session's own."""
    queued_run, own = studio.queue.get(run), request.state.token
    key = (queued_run, choose_language(request), int(time.monotonic() / _EVERY_S))
    with studio.reading:
        known = studio.pieces.get(run)
        if known is None or known[0] != key:
            page = render(request, "run_progress.html.jinja", run=queued_run, log=studio.watch(queued_run))
            known = key, bytes(page.body).decode().replace(own, _PLACE)
            studio.pieces = {**dict(list(studio.pieces.items())[-_KEPT:]), run: known}
    return known[1], queued_run.ended


def _event(name: str, text: str) -> str:
    lines = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"event: {name}\n{lines}\n"


@router.post("/runs/{run}/stop", dependencies=[Depends(allow("edit", action="run.stop"))])
def stop(studio: StudioDep, form: FormDep, run: str) -> Response:
    """Stop a run, or take it out of the queue."""
    return RedirectResponse(f"/runs/{studio.queue.stop(run).id}", 303)


@router.post("/runs/{run}/again", dependencies=[Depends(allow("edit", action="run.again"))])
def again(studio: StudioDep, form: FormDep, run: str) -> Response:
    """Run it again: what was finished is kept."""
    return RedirectResponse(f"/runs/{studio.queue.again(run).id}", 303)


@router.post("/runs/{run}/move", dependencies=[Depends(allow("edit", action="run.move"))])
def move(studio: StudioDep, form: FormDep, run: str) -> Response:
    """Let it be earlier, later or the next."""
    where = text_of(form, "where")
    studio.queue.move(run, "front" if where == "front" else "down" if where == "down" else "up")
    return RedirectResponse("/runs", 303)


@router.get("/runs/{run}/costs", dependencies=[Depends(allow("view"))])
def costs(request: Request, studio: StudioDep, run: str) -> Response:
    """What each step was expected to take and took, and what models said while they were trained."""
    queued_run = studio.queue.get(run)
    try:
        plan = load_queued_plan(studio.workspace, queued_run)
    except LuthierError as error:
        return render(request, "run_costs.html.jinja", run=queued_run, steps=[], error=error, samples={})
    return render(
        request, "run_costs.html.jinja", run=queued_run, steps=list_plan_steps(plan), error=None,
        samples=read_training_samples(plan),
    )  # fmt: skip


@router.get("/runs/{run}/report", dependencies=[Depends(allow("view"))])
def report(request: Request, studio: StudioDep, run: str) -> Response:
    """The report of what a run made, in a frame of its own."""
    queued_run = studio.queue.get(run)
    return render(
        request, "report.html.jinja", project=None, word=queued_run.run or "", frame=f"{request.url.path}/page"
    )


@router.get("/runs/{run}/report/page", dependencies=[Depends(allow("view"))])
def report_page(studio: StudioDep, run: str) -> Response:
    """Show the report of a run."""
    queued_run = studio.queue.get(run)
    if queued_run.run is None:
        raise UnknownName(_("this run has not begun yet"), hint=_("wait until it has made something"))
    return report_headers(read_report(studio.workspace, queued_run.run, page_language()))
