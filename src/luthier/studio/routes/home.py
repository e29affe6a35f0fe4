"""The workspace's own pages: its projects, one project, and the door."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from luthier.commands.projects.intake import list_drafts
from luthier.commands.projects.workspace import find_project, list_plan_steps, list_projects, load_plan, read_report
from luthier.core.errors import LuthierError, UnknownName
from luthier.studio.message_templates import page_language
from luthier.studio.pages import render, report_headers, static_file
from luthier.studio.people import PersonDep, allow, everybody, member
from luthier.studio.security import set_session_cookie
from luthier.studio.sessions import COOKIE
from luthier.studio.state import FormDep, StudioDep
from luthier.studio.translation import gettext as _

router = APIRouter()


@router.get("/health", dependencies=[Depends(everybody)])
async def health() -> JSONResponse:
    """The server runs."""
    return JSONResponse({"status": "ok"})


@router.get("/static/{name}", dependencies=[Depends(everybody)])
async def static(name: str) -> Response:
    """One of the studio's own files."""
    return static_file(name)


@router.get("/open", dependencies=[Depends(everybody)])
def open_link(request: Request, studio: StudioDep, token: str = "") -> Response:
    """The link that was printed: it makes this browser's session, once."""
    if request.state.person is not None:
        return RedirectResponse("/", 303)
    if request.state.accounts:
        return RedirectResponse("/login", 303)
    cookie = studio.sessions.open(token)
    if cookie is None:
        raise HTTPException(403, _("This link was used already. Start `luthier studio` again for a new one."))
    answer = render(request, "opened.html.jinja", then="/")
    set_session_cookie(answer, cookie, studio.names)
    return answer


@router.post("/close", dependencies=[Depends(member)])
def close(request: Request, studio: StudioDep, form: FormDep) -> Response:
    """End this browser's session."""
    studio.sessions.close(request.state.cookie)
    answer = RedirectResponse("/", 303)
    answer.delete_cookie(COOKIE, path="/")
    return answer


@router.get("/", dependencies=[Depends(member)])
def workspace(request: Request, studio: StudioDep, person: PersonDep) -> Response:
    """The projects of the workspace that a person may see; whoever only labels goes there."""
    if not person.may_somewhere("view"):
        return RedirectResponse("/label" if person.may_somewhere("label") else "/account", 303)
    projects = [project for project in list_projects(studio.workspace, studio.queue) if person.may("view", project.id)]
    drafts = [draft for draft in list_drafts(studio.workspace) if person.may("edit", draft.name)]
    waiting = [run for run in studio.queue.all(("running", "queued")) if person.may("view", studio.project_of(run))]
    here = studio.workspace.folder.absolute()
    return render(request, "workspace.html.jinja", projects=projects, drafts=drafts, waiting=waiting, here=here)


@router.get("/projects/{name}", dependencies=[Depends(allow("view"))])
def project(request: Request, studio: StudioDep, name: str) -> Response:
    """One project: how it stands, what its steps cost, its runs."""
    found = find_project(studio.workspace, name, studio.queue)
    runs = studio.queue.of(found.shown)[:20]
    return render(request, "project.html.jinja", project=found, runs=runs)


@router.get("/projects/{name}/plan", dependencies=[Depends(allow("view"))])
def plan(request: Request, studio: StudioDep, name: str) -> Response:
    """What a project's steps took, and what those that are to be made will take."""
    project = find_project(studio.workspace, name, studio.queue)
    try:
        recipe_plan = load_plan(studio.workspace, project.file)
    except LuthierError as error:
        return render(request, "plan.html.jinja", project=project, steps=[], error=error, notes=[])
    steps = list_plan_steps(recipe_plan)
    return render(request, "plan.html.jinja", project=project, steps=steps, error=None, notes=recipe_plan.notes)


@router.get("/projects/{name}/report", dependencies=[Depends(allow("view"))])
def report(request: Request, studio: StudioDep, name: str) -> Response:
    """The report of what a project's recipe made, in a frame of its own."""
    project = find_project(studio.workspace, name, studio.queue)
    return render(
        request, "report.html.jinja", project=project, word=str(project.shown), frame=f"{request.url.path}/page"
    )


@router.get("/projects/{name}/report/page", dependencies=[Depends(allow("view"))])
def report_page(studio: StudioDep, name: str) -> Response:
    """The report itself."""
    project = find_project(studio.workspace, name, studio.queue)
    try:
        return report_headers(read_report(studio.workspace, str(project.shown), page_language()))
    except UnknownName:
        done = project.run is not None and project.run.state == "done"
        if not done or project.run is None:
            raise
        return report_headers(read_report(studio.workspace, project.run.id, page_language()))
