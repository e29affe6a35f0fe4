"""Pages of a validation's findings, and the recipe change that answers each."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from luthier.commands.projects.remedies import build_remedy, list_step_findings
from luthier.commands.projects.workspace import check_recipe, load_made_plan, save_recipe
from luthier.core.errors import InputError, LuthierError
from luthier.studio.pages import render
from luthier.studio.people import allow
from luthier.studio.state import FormDep, StudioDep, text_of
from luthier.studio.translation import gettext as _

router = APIRouter()


@router.get("/projects/{name}/findings", dependencies=[Depends(allow("view"))])
def findings(request: Request, studio: StudioDep, name: str) -> Response:
    """The findings, the worst first."""
    file = studio.find_recipe(name)
    made_plan = load_made_plan(studio.workspace, file, "findings")
    return render(
        request, "findings.html.jinja", name=name, file=studio.workspace.shorten(file), of=made_plan,
        found=list(list_step_findings(made_plan.plan)),
        has_step=any(planned.step.makes == "findings" for planned in made_plan.plan),
    )  # fmt: skip


@router.get("/projects/{name}/findings/{step}/{finding}", dependencies=[Depends(allow("view"))])
def show_change(request: Request, studio: StudioDep, name: str, step: str, finding: str) -> Response:
    """The change of the recipe that a finding asks for, before it is saved."""
    file = studio.find_recipe(name)
    made_plan = load_made_plan(studio.workspace, file, "findings")
    change = build_remedy(file, made_plan.plan, step, finding)
    problem: LuthierError | None = None
    try:
        check_recipe(studio.workspace, file, change.after)
    except LuthierError as error:
        problem = error
    return render(
        request, "remedy.html.jinja", name=name, file=studio.workspace.shorten(file), step=step, finding=finding,
        change=change, problem=problem,
    )  # fmt: skip


@router.post("/projects/{name}/findings/{step}/{finding}", dependencies=[Depends(allow("edit"))])
def mend(studio: StudioDep, form: FormDep, name: str, step: str, finding: str) -> Response:
    """Save the change that was shown."""
    file = studio.find_recipe(name)
    change = build_remedy(file, load_made_plan(studio.workspace, file, "findings").plan, step, finding)
    if text_of(form, "before") != change.before.replace("\r\n", "\n"):
        raise InputError(_("the recipe changed since this change was shown"), hint=_("look at the change again"))
    save_recipe(studio.workspace, file, change.after)
    return RedirectResponse(f"/projects/{name}/recipe?saved=true", 303)
