"""A project's recipe: its text and its form, in step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from luthier.commands.projects.recipe_form import RecipeForm, build_recipe_form, change_part, change_setting
from luthier.commands.projects.workspace import save_recipe
from luthier.core.errors import LuthierError
from luthier.recipe.workspace import Workspace
from luthier.studio.pages import render
from luthier.studio.people import allow
from luthier.studio.state import FormDep, StudioDep, text_of

router = APIRouter()


@router.get("/projects/{name}/recipe", dependencies=[Depends(allow("view"))])
def recipe(request: Request, studio: StudioDep, name: str, saved: bool = False) -> Response:
    """The recipe as it is written."""
    file = studio.find_recipe(name)
    text = file.read_text(encoding="utf-8", errors="replace")
    return _page(request, studio, name, build_recipe_form(studio.workspace, text, file), saved=saved)


def _page(
    request: Request, studio: StudioDep, name: str, form: RecipeForm, *, status: int = 200, saved: bool = False
) -> Response:
    file = studio.find_recipe(name)
    return render(
        request, "recipe.html.jinja", status, name=name, file=studio.workspace.shorten(file), form=form, saved=saved
    )


def _panes(request: Request, name: str, form: RecipeForm, problem: LuthierError | None = None) -> Response:
    return render(request, "recipe_panes.html.jinja", name=name, form=form, problem=problem)


@router.post("/projects/{name}/recipe/check", dependencies=[Depends(allow("edit", action=""))])
def check(request: Request, studio: StudioDep, form: FormDep, name: str) -> Response:
    """The form of a text that is being written."""
    return _panes(request, name, build_recipe_form(studio.workspace, text_of(form, "text"), studio.find_recipe(name)))


@router.post("/projects/{name}/recipe/setting", dependencies=[Depends(allow("edit", action=""))])
def setting(request: Request, studio: StudioDep, form: FormDep, name: str) -> Response:
    """The text with one setting changed."""
    return _changed_panes(request, studio, form, name, change_setting)


@router.post("/projects/{name}/recipe/part", dependencies=[Depends(allow("edit", action=""))])
def part(request: Request, studio: StudioDep, form: FormDep, name: str) -> Response:
    """The text with another kind of part, one more, or one less."""
    return _changed_panes(request, studio, form, name, change_part)


def _changed_panes(
    request: Request,
    studio: StudioDep,
    form: FormDep,
    name: str,
    change: Callable[[Workspace, str, Path, str, str], str],
) -> Response:
    """The panes of the text with a change at the form's path, or of the text as it was and what is wrong."""
    file, text = studio.find_recipe(name), text_of(form, "text")
    problem: LuthierError | None = None
    try:
        text = change(studio.workspace, text, file, text_of(form, "path"), text_of(form, "value"))
    except LuthierError as error:
        problem = error
    return _panes(request, name, build_recipe_form(studio.workspace, text, file), problem)


@router.post("/projects/{name}/recipe", dependencies=[Depends(allow("edit", action="recipe.save"))])
def save(request: Request, studio: StudioDep, form: FormDep, name: str) -> Response:
    """Write the recipe once it is one."""
    file, text = studio.find_recipe(name), text_of(form, "text")
    try:
        save_recipe(studio.workspace, file, text)
    except LuthierError:
        return _page(request, studio, name, build_recipe_form(studio.workspace, text, file), status=400)
    return RedirectResponse(f"{request.url.path}?saved=true", 303)
