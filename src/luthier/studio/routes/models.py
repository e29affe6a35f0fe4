"""A project's models: their cards, the names that mean them, and the server that clients ask."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from luthier.commands.projects.models import (
    find_project_model,
    list_project_models,
    list_project_releases,
    read_model_report,
)
from luthier.commands.projects.releases import plan_release_change, read_candidate_comparison, suggest_alias
from luthier.commands.release import history
from luthier.core.errors import LuthierError
from luthier.studio.message_templates import page_language
from luthier.studio.pages import render, report_headers
from luthier.studio.people import allow
from luthier.studio.state import FormDep, Studio, StudioDep, text_of

router = APIRouter()


@router.get("/projects/{name}/models", dependencies=[Depends(allow("view"))])
def show(request: Request, studio: StudioDep, name: str) -> Response:
    """Every model that the project made, what is released, and the server."""
    file = studio.find_recipe(name)
    releases = list_project_releases(studio.workspace, file)
    own = studio.workspace.with_folder(file.parent)
    return render(
        request, "models.html.jinja", name=name, file=studio.workspace.shorten(file),
        models=list_project_models(studio.workspace, file), releases=releases,
        histories={release.alias: history(own, release.alias) for release in releases}, server=studio.server_of(file),
    )  # fmt: skip


@router.get("/projects/{name}/models/server", dependencies=[Depends(allow("view"))])
def server(request: Request, studio: StudioDep, name: str) -> Response:
    """How the server stands, without the page around it."""
    return _server(request, studio, name)


def _server(request: Request, studio: Studio, name: str, error: LuthierError | None = None) -> Response:
    file = studio.find_recipe(name)
    return render(
        request, "models_server.html.jinja", 200 if error is None else 400, name=name, server=studio.server_of(file),
        file=studio.workspace.shorten(file), releases=list_project_releases(studio.workspace, file), error=error,
    )  # fmt: skip


@router.post("/projects/{name}/models/serve", dependencies=[Depends(allow("edit"))])
def serve(studio: StudioDep, form: FormDep, name: str) -> Response:
    """Serve what is released."""
    studio.server_of(studio.find_recipe(name)).start(text_of(form, "port").strip())
    return RedirectResponse(f"/projects/{name}/models#server", 303)


@router.post("/projects/{name}/models/unserve", dependencies=[Depends(allow("edit"))])
def unserve(studio: StudioDep, form: FormDep, name: str) -> Response:
    """End the server."""
    studio.server_of(studio.find_recipe(name)).stop()
    return RedirectResponse(f"/projects/{name}/models#server", 303)


@router.get("/projects/{name}/models/{digest}/report", dependencies=[Depends(allow("view"))])
def report(request: Request, studio: StudioDep, name: str, digest: str) -> Response:
    """The report of what made a model, in a frame of its own."""
    model = find_project_model(studio.workspace, studio.find_recipe(name), digest)
    return render(
        request, "report.html.jinja", project=None, word=model.word.rpartition(":")[0], frame=f"{request.url.path}/page"
    )


@router.get("/projects/{name}/models/{digest}/report/page", dependencies=[Depends(allow("view"))])
def report_page(studio: StudioDep, name: str, digest: str) -> Response:
    """Show the report of a model."""
    return report_headers(read_model_report(studio.workspace, studio.find_recipe(name), digest, page_language()))


@router.get("/projects/{name}/release", dependencies=[Depends(allow("edit"))])
def prepare(
    request: Request, studio: StudioDep, name: str, did: str = "release", alias: str = "", model: str = "",
    share: str = "10%",
) -> Response:  # fmt: skip
    """What a change of a name will do, before it is done."""
    file = studio.find_recipe(name)
    releases = list_project_releases(studio.workspace, file)
    change = plan_release_change(
        studio.workspace, file, did, alias.strip() or suggest_alias(file, releases), model, share
    )
    error: LuthierError | None = None
    sentences: list[str] = []
    try:
        sentences = change.describe()
    except LuthierError as problem:
        error = problem
    return render(
        request, "release.html.jinja", name=name, change=change, sentences=sentences, error=error, releases=releases
    )


@router.get("/projects/{name}/release/comparison", dependencies=[Depends(allow("view"))])
def comparison(request: Request, studio: StudioDep, name: str, alias: str = "") -> Response:
    """How the model that is tried under a name does beside the one that answers."""
    own = studio.workspace.with_folder(studio.find_recipe(name).parent)
    found, error = [], None
    try:
        found = read_candidate_comparison(own, alias)
    except LuthierError as problem:
        error = problem
    return render(request, "release_comparison.html.jinja", alias=alias, found=found, error=error)


@router.post("/projects/{name}/release", dependencies=[Depends(allow("edit"))])
def change(studio: StudioDep, form: FormDep, name: str) -> Response:
    """Do it."""
    file = studio.find_recipe(name)
    fields = {field: text_of(form, field) for field in ("did", "alias", "share")}
    planned = plan_release_change(studio.workspace, file, **fields, digest=text_of(form, "model"))
    planned.describe()
    planned.apply(studio.workspace, file)
    return RedirectResponse(f"/projects/{name}/models#releases", 303)
