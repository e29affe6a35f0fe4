"""Why a model answers as it does: a question is chosen or typed, and its explanation shown."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from luthier.commands.projects.explanations import (
    MOST_CHARS,
    Explanation,
    list_explainer_kinds,
    list_explanation_rows,
    parse_question,
)
from luthier.commands.projects.models import list_project_models
from luthier.core.errors import LuthierError, UnknownName
from luthier.studio.pages import render
from luthier.studio.people import PersonDep, allow
from luthier.studio.state import FormDep, Studio, StudioDep, text_of
from luthier.studio.translation import gettext as _

router = APIRouter()
_MAY_SEE = [Depends(allow("review"))]
"""An explanation repeats what was question, with whatever personal data is in it."""
_UNITS = ("auto", "turns", "documents", "shots", "sentences", "words", "tokens", "patches", "seconds")
_FIELDS = ("text", "row", "trace", "answer", "instead", "method", "units")
_HEAT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'none'"
"""The heat map as a file has styles of its own and runs nothing."""


@router.get("/projects/{name}/explain", dependencies=_MAY_SEE)
def ask(
    request: Request, studio: StudioDep, name: str, model: str = "", text: str = "", row: str = "", trace: str = ""
) -> Response:
    """Where a question is typed or chosen, and what was explained before."""
    written = {"model": model, "text": text[:MOST_CHARS], "row": row, "trace": trace}
    return _ask_page(request, studio, name, written, None)


def _ask_page(
    request: Request, studio: Studio, name: str, written: dict[str, str], error: LuthierError | None
) -> Response:
    file = studio.find_recipe(name)
    models = list_project_models(studio.workspace, file)
    meant = written["model"]
    chosen = next(
        (entry for entry in models if meant and entry.digest.startswith(meant)), models[0] if models else None
    )
    rows = list_explanation_rows(studio.workspace, chosen, file) if chosen and not written["trace"] else []
    return render(
        request, "explain.html.jinja", 400 if error else 200, name=name, file=studio.workspace.shorten(file),
        models=models, chosen=chosen, rows=rows, kinds=list_explainer_kinds(), units=_UNITS, error=error,
        written={field: written.get(field, "") for field in _FIELDS},
        earlier=studio.explanations.list_of(name),
    )  # fmt: skip


@router.post("/projects/{name}/explain", dependencies=[Depends(allow("review", action="explain.ask"))])
def begin(request: Request, studio: StudioDep, form: FormDep, person: PersonDep, name: str) -> Response:
    """Put a question into the queue."""
    studio.find_recipe(name)
    written = {field: text_of(form, field).strip() for field in _FIELDS}
    try:
        known = {**written, "units": written["units"] or "auto"}
        question = parse_question(project=name, digest=text_of(form, "model"), asked_by=person.id, **known)
        explanation = studio.explanations.ask(question)
    except LuthierError as error:
        if isinstance(error, UnknownName):
            raise
        return _ask_page(request, studio, name, {**written, "model": text_of(form, "model")}, error)
    return RedirectResponse(f"/projects/{name}/explain/{explanation}", 303)


@router.get("/projects/{name}/explain/{explanation}", dependencies=_MAY_SEE)
def show(request: Request, studio: StudioDep, name: str, explanation: str) -> Response:
    """An explanation, or how far it is."""
    return _show(request, studio, name, explanation, "explain_answer.html.jinja")


@router.get("/projects/{name}/explain/{explanation}/now", dependencies=_MAY_SEE)
def now(request: Request, studio: StudioDep, name: str, explanation: str) -> Response:
    """The same without the page around it, for a page that waits for it."""
    return _show(request, studio, name, explanation, "explain_state.html.jinja")


def _show(request: Request, studio: Studio, name: str, explanation: str, template: str) -> Response:
    file = studio.find_recipe(name)
    found = studio.explanations.get(name, explanation)
    return render(
        request, template, name=name, file=studio.workspace.shorten(file), found=found, words=_words(studio, found),
        influence=studio.explanations.find_influence(found), kinds=list_explainer_kinds(),
    )  # fmt: skip


def _words(studio: Studio, found: Explanation) -> list[str]:
    """The command that does the same; of a model that is gone, with its digest."""
    try:
        return found.question.words(studio.workspace)
    except LuthierError:
        return ["explain", found.question.digest[:12]]


@router.get("/projects/{name}/explain/{explanation}/heat.html", dependencies=_MAY_SEE)
def heat_map(studio: StudioDep, name: str, explanation: str) -> Response:
    """The heat map as a page of its own, to keep or print."""
    from luthier.explain.heat_map import render_heat_map

    studio.find_recipe(name)
    found = studio.explanations.get(name, explanation)
    if found.state != "done":
        raise UnknownName(_("this explanation is not made yet"), hint=_("wait until it is done"))
    page = render_heat_map(found.records, f"Why {found.records[0].model} answers so")
    disposition = f'attachment; filename="explanation-{found.id}.html"'
    return HTMLResponse(page, headers={"content-security-policy": _HEAT_POLICY, "content-disposition": disposition})


@router.post(
    "/projects/{name}/explain/{explanation}/stop", dependencies=[Depends(allow("review", action="explain.stop"))]
)
def stop(studio: StudioDep, form: FormDep, name: str, explanation: str) -> Response:
    """End one, or forget what came of it."""
    studio.find_recipe(name)
    studio.explanations.stop(name, explanation)
    return RedirectResponse(f"/projects/{name}/explain", 303)


@router.post(
    "/projects/{name}/explain/{explanation}/influence",
    dependencies=[Depends(allow("review", action="explain.influence"))],
)
def ask_influence(studio: StudioDep, form: FormDep, name: str, explanation: str) -> Response:
    """Ask which training rows taught the answer."""
    studio.find_recipe(name)
    studio.explanations.ask_influence(name, explanation)
    return RedirectResponse(f"/projects/{name}/explain/{explanation}#influence", 303)
