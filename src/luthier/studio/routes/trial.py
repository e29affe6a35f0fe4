"""Trying a project's model beside its base."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from luthier.commands.projects.trial import TrialModel, TrialServer, list_trial_models
from luthier.core.errors import LuthierError, UnknownName
from luthier.studio.pages import render
from luthier.studio.people import allow
from luthier.studio.state import FormDep, StudioDep, text_of

router = APIRouter()


@router.get("/projects/{name}/try", dependencies=[Depends(allow("view"))])
def show(request: Request, studio: StudioDep, name: str) -> Response:
    """The models that can be tried, and the one that is."""
    file = studio.find_recipe(name)
    models = list_trial_models(studio.workspace, file)
    chosen = _served(studio.trial, models)
    return render(
        request, "try.html.jinja", name=name, file=studio.workspace.shorten(file), models=models, chosen=chosen,
        trial=studio.trial,
    )  # fmt: skip


def _served(trial: TrialServer, models: list[TrialModel]) -> TrialModel | None:
    return next((model for model in models if model.words == trial.words and trial.state != "off"), None)


@router.get("/projects/{name}/try/state", dependencies=[Depends(allow("view"))])
def state(request: Request, studio: StudioDep, name: str) -> Response:
    """The same, without the page around it, for a page that waits for the model."""
    file = studio.find_recipe(name)
    return render(request, "try_state.html.jinja", name=name, file=studio.workspace.shorten(file), trial=studio.trial)


@router.post("/projects/{name}/try/start", dependencies=[Depends(allow("edit", action="try.start"))])
def start(studio: StudioDep, form: FormDep, name: str) -> Response:
    """Serve a model."""
    models = {model.step: model for model in list_trial_models(studio.workspace, studio.find_recipe(name))}
    step = text_of(form, "step")
    if step not in models:
        raise UnknownName(f"there is no model {step[:80]!r}", hint="run the project first")
    studio.trial.start(models[step])
    return RedirectResponse(f"/projects/{name}/try", 303)


@router.post("/projects/{name}/try/stop", dependencies=[Depends(allow("edit", action="try.stop"))])
def stop(studio: StudioDep, form: FormDep, name: str) -> Response:
    """End it."""
    studio.find_recipe(name)
    studio.trial.stop()
    return RedirectResponse(f"/projects/{name}/try", 303)


@router.post("/projects/{name}/try/ask", dependencies=[Depends(allow("view"))])
def ask(request: Request, studio: StudioDep, form: FormDep, name: str) -> Response:
    """What each model answers."""
    studio.find_recipe(name)
    text = text_of(form, "text")
    try:
        answers, error = studio.trial.ask(text), None
    except LuthierError as failed:
        answers, error = [], failed
    return render(request, "try_answers.html.jinja", text=text, answers=answers, error=error)
