"""Two to five runs side by side: their recipes, their numbers, and the rows on which they differ."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from luthier.commands.projects.comparison import (
    ComparedRun,
    find_compared_runs,
    list_flipped_rows,
    list_setting_differences,
    pair_runs,
)
from luthier.commands.projects.workspace import project_id
from luthier.core.errors import InputError, LuthierError, UnknownName
from luthier.studio.pages import render
from luthier.studio.people import Person, PersonDep, allow, require_right
from luthier.studio.state import Studio, StudioDep
from luthier.studio.translation import gettext as _

router = APIRouter()


def _runs(request: Request, studio: Studio, person: Person) -> list[ComparedRun]:
    """The runs of an address: entries of the queue, or recorded runs by their ids; 403 where one is not the person's
    to see."""
    query = request.query_params
    names = [*query.getlist("run"), *(entry for text in query.getlist("runs") for entry in text.split(",") if entry)]
    compared_runs = find_compared_runs(studio.workspace, [_recorded(studio, name) for name in names])
    for compared_run in compared_runs:
        file = Path(compared_run.run.folder) / (compared_run.run.recipe_file or "recipe.yaml")
        require_right(request, person, "view", project_id(studio.workspace, file))
    return compared_runs


def _recorded(studio: Studio, name: str) -> str:
    try:
        queued = studio.queue.get(name)
    except UnknownName:
        return name
    if queued.run is None:
        raise InputError(_("this run has not begun yet") + f" ({name})", hint=_("choose runs that came to their end"))
    return queued.run


@router.get("/compare", dependencies=[Depends(allow("view", anywhere=True))])
def compare(request: Request, studio: StudioDep, person: PersonDep) -> Response:
    """What differs in recipes and numbers; what needs longer follows."""
    runs = _runs(request, studio, person)
    metrics = list(dict.fromkeys(name for run in runs for name in run.scores))
    return render(
        request, "compare.html.jinja", runs=runs, settings=list_setting_differences(runs), metrics=metrics,
        letters="ABCDE",
    )  # fmt: skip


@router.get("/compare/paired", dependencies=[Depends(allow("view", anywhere=True))])
def paired(request: Request, studio: StudioDep, person: PersonDep) -> Response:
    """The first run against each of the others on the same rows, and the rows that only one model has right."""
    runs = _runs(request, studio, person)
    try:
        pairs = pair_runs(studio.comparisons, runs)
    except LuthierError as error:
        return render(request, "compare_paired.html.jinja", pairs=[], error=error)
    by_id = {run.id: run for run in runs}
    shown = [
        (index, pair, list_flipped_rows(runs[0], by_id[pair.other], pair.facts)) for index, pair in enumerate(pairs, 1)
    ]
    return render(request, "compare_paired.html.jinja", pairs=shown, error=None, letters="ABCDE")
