"""A project's data: the rows of a prepared data set, and the lineage of each."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from luthier.commands.lineage import trace_example
from luthier.commands.projects.personal_data import mask_lineage, mask_rows
from luthier.commands.projects.rows import RowFilter, read_rows_page
from luthier.commands.projects.workspace import load_made_plan
from luthier.core.errors import UnknownName
from luthier.recipe.locate import CommandTarget
from luthier.studio.pages import render
from luthier.studio.people import PersonDep, allow
from luthier.studio.personal_data import hide_personal_data
from luthier.studio.state import StudioDep

router = APIRouter()


@router.get("/projects/{name}/data", dependencies=[Depends(allow("view"))])
def rows(
    request: Request, studio: StudioDep, person: PersonDep, name: str, chosen: Annotated[RowFilter, Depends()],
    step: str = "",
) -> Response:  # fmt: skip
    """The rows of a data set, a page at a time."""
    file = studio.find_recipe(name)
    made_plan = load_made_plan(studio.workspace, file, "dataset")
    plan = made_plan.plan
    steps = [planned.name for planned in plan if planned.step.makes == "dataset"]
    made = [one for one in steps if plan[one].cached]
    if step and step not in steps:
        raise UnknownName(f"there is no data set {step[:80]!r}", hint="choose another step")
    step = step or next(iter(made), "")
    shown, is_masked = None, False
    if step in made:
        page = read_rows_page(plan.artifact(step), chosen)
        shown, is_masked = hide_personal_data(request, studio, person, name, page, mask_rows)
    return render(
        request, "data.html.jinja", name=name, file=studio.workspace.shorten(file), steps=steps, step=step,
        chosen=chosen, shown=shown, of=made_plan, is_masked=is_masked, may_show=person.may("review", name),
    )  # fmt: skip


@router.get("/projects/{name}/data/{step}/rows/{row}", dependencies=[Depends(allow("view"))])
def row(request: Request, studio: StudioDep, person: PersonDep, name: str, step: str, row: str) -> Response:
    """One row: where it came from, what was done to it, who learnt it, how models answered it."""
    file = studio.find_recipe(name)
    word = load_made_plan(studio.workspace, file, "dataset").word
    found = trace_example(row, CommandTarget(studio.workspace, word))
    lineage, is_masked = hide_personal_data(request, studio, person, name, found, mask_lineage)
    return render(
        request, "row.html.jinja", name=name, file=studio.workspace.shorten(file), step=step, lineage=lineage,
        word=word, is_masked=is_masked, may_show=person.may("review", name),
    )  # fmt: skip
