"""Trying a project's model beside its base."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from luthier.commands.projects.trial import TrialModel, TrialQuestion, TrialServer, list_trial_models
from luthier.core.errors import LuthierError, UnknownName
from luthier.studio.pages import render
from luthier.studio.people import allow
from luthier.studio.state import FormDep, StudioDep, text_of
from luthier.studio.translation import gettext as _

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
        raise UnknownName(f"there is no model {step[:80]!r}", hint=_("run the project first"))
    studio.trial.start(models[step])
    return RedirectResponse(f"/projects/{name}/try", 303)


@router.post("/projects/{name}/try/stop", dependencies=[Depends(allow("edit", action="try.stop"))])
def stop(studio: StudioDep, form: FormDep, name: str) -> Response:
    """End it."""
    studio.find_recipe(name)
    studio.trial.stop()
    return RedirectResponse(f"/projects/{name}/try", 303)


@router.post("/projects/{name}/try/ask", dependencies=[Depends(allow("view"))])
async def ask(studio: StudioDep, form: FormDep, name: str) -> Response:
    """What one model answers to a conversation, piece by piece (server-sent events). It ends when the browser goes."""
    await asyncio.to_thread(studio.find_recipe, name)
    question = TrialQuestion.parse(
        text_of(form, "model"), text_of(form, "messages"), text_of(form, "temperature"), text_of(form, "tokens")
    )
    return StreamingResponse(_relay(studio.trial, question), media_type="text/event-stream")


async def _relay(trial: TrialServer, question: TrialQuestion) -> AsyncIterator[str]:
    """Each piece as an event, and at the end how long it took, or why it failed."""
    began = time.perf_counter()
    try:
        async for piece in trial.answer(question):
            tokens = [(token.text, token.share, token.alternatives) for token in piece.tokens]
            yield _event("piece", {"text": piece.text, "tokens": tokens})
    except LuthierError as error:
        yield _event("failed", {"message": error.message, "hint": error.hint})
        return
    yield _event("end", {"seconds": time.perf_counter() - began})


def _event(name: str, content: object) -> str:
    return f"event: {name}\ndata: {json.dumps(content)}\n\n"
