"""A new project: rows come in, what they hold is shown, and the recipe is written."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Literal, get_args
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from luthier.auto.advice.predict import TechniqueKind
from luthier.commands.advise import MODEL, AdviceOptions
from luthier.commands.projects.intake import (
    KINDS,
    MOST_BYTES,
    Draft,
    IntakeChoices,
    advise_on_draft,
    choose_draft_table,
    create_database_draft,
    create_draft,
    discard_draft,
    find_draft,
    list_draft_tables,
    list_traffic_projects,
    write_draft_recipe,
    write_traffic_recipe,
)
from luthier.commands.projects.workspace import project_id
from luthier.commands.recipe_text import TRANSCRIBER, choose_technique, rank_recipe_techniques, why_plain_first
from luthier.core.errors import InputError, LuthierError, SourceLocation
from luthier.data.columns.choose import UnclearColumns
from luthier.data.suggest.propose import WANTS, Want
from luthier.models.catalog import CATALOG
from luthier.studio.pages import render
from luthier.studio.people import allow
from luthier.studio.state import FormDep, Studio, StudioDep, text_of
from luthier.studio.translation import gettext as _

router = APIRouter()


@router.get("/new", dependencies=[Depends(allow("edit"))])
def new(request: Request, studio: StudioDep) -> Response:
    """Where rows are dropped or pasted, a database is named, or traffic is taken."""
    return _new_page(request, studio, None, {})


_FIELDS = ("name", "pasted", "database", "traffic", "where")


def _new_page(request: Request, studio: Studio, error: LuthierError | None, written: Mapping[str, str]) -> Response:
    fields = {name: written.get(name, "") for name in _FIELDS}
    return render(
        request, "new.html.jinja", 200 if error is None else 400, kinds=KINDS, most=MOST_BYTES, error=error,
        traffic_projects=list_traffic_projects(studio.workspace), written=fields,
    )  # fmt: skip


@router.post("/new", dependencies=[Depends(allow("edit", action="project.begin"))])
def upload(request: Request, studio: StudioDep, form: FormDep) -> Response:
    """Keep the rows, or where they are, and go on to what they hold."""
    written = {name: text_of(form, name) for name in _FIELDS}
    name, file = written["name"].strip(), form.get("file")
    try:
        if isinstance(file, UploadFile) and file.filename:
            draft = create_draft(studio.workspace, name, file.filename, file.file)
        elif written["pasted"].strip():
            rows = written["pasted"]
            draft = create_draft(studio.workspace, name, _pasted_name(rows), io.BytesIO(rows.encode()))
        elif written["database"].strip():
            draft = create_database_draft(studio.workspace, name, written["database"].strip())
        elif written["traffic"]:
            new_recipe = write_traffic_recipe(studio.workspace, name, written["traffic"], written["where"])
            return RedirectResponse(f"/projects/{quote(project_id(studio.workspace, new_recipe.path), safe='~')}", 303)
        else:
            raise InputError(
                _("there are no rows"), where=SourceLocation(field="file"), hint=_("choose a file, or paste")
            )
    except LuthierError as error:
        return _new_page(request, studio, error, written)
    return RedirectResponse(f"/new/{draft.name}", 303)


def _pasted_name(text: str) -> str:
    """What to call rows that were pasted: JSON lines, a JSON list, or a table."""
    first = text.lstrip()[:1]
    if first == "[":
        return "pasted.json"
    return "pasted.jsonl" if first == "{" else "pasted.csv"


@router.get("/new/{name}", dependencies=[Depends(allow("edit"))])
def draft(
    request: Request, studio: StudioDep, name: str, prompt: str = "", answer: str = "", want: str = ""
) -> Response:
    """What came in; the look at its rows, which may take a while, follows."""
    found = find_draft(studio.workspace, name)
    if found.database and not found.table:
        return _tables_page(request, studio, found)
    query = urlencode({"prompt": prompt, "answer": answer, "want": want})
    return render(request, "draft.html.jinja", draft=found, query=query)


def _tables_page(request: Request, studio: Studio, found: Draft, error: LuthierError | None = None) -> Response:
    tables: list[str] = []
    try:
        tables = list_draft_tables(studio.workspace, found)
    except LuthierError as unreached:
        error = unreached
    return render(request, "draft_tables.html.jinja", 400 if error else 200, draft=found, tables=tables, error=error)


@router.post("/new/{name}/table", dependencies=[Depends(allow("edit"))])
def table(request: Request, studio: StudioDep, form: FormDep, name: str) -> Response:
    """Choose a table of a database."""
    draft = find_draft(studio.workspace, name)
    try:
        choose_draft_table(studio.workspace, draft, text_of(form, "table"))
    except LuthierError as error:
        return _tables_page(request, studio, draft, error)
    return RedirectResponse(f"/new/{name}", 303)


@router.get("/new/{name}/proposal", dependencies=[Depends(allow("edit"))])
def proposal(
    request: Request, studio: StudioDep, name: str, prompt: str = "", answer: str = "", want: str = ""
) -> Response:
    """What the rows hold, and what is proposed for them."""
    draft = find_draft(studio.workspace, name)
    choices = IntakeChoices(prompt=_column(prompt), answer=_column(answer), want=_want(want))
    try:
        recipe_proposal = studio.proposals.propose(studio.workspace, draft, choices)
    except LuthierError as error:
        columns = error.columns if isinstance(error, UnclearColumns) else ()
        return render(
            request, "draft_error.html.jinja", draft=draft, error=error, is_choice=any((prompt, answer, want)),
            columns=columns, choices=choices,
        )  # fmt: skip
    ranking = rank_recipe_techniques(recipe_proposal, MODEL)
    models = [model for model in CATALOG if model != TRANSCRIBER or "audio" in recipe_proposal.profile.media]
    return render(
        request, "proposal.html.jinja", draft=draft, proposal=recipe_proposal, profile=recipe_proposal.profile,
        choices=choices, catalog=models, words=choices.words(draft), ranking=ranking,
        plain_first=why_plain_first(recipe_proposal, ranking),
        technique=choose_technique(ranking, network=False),
        query=urlencode({"prompt": prompt, "answer": answer, "want": want}),
    )  # fmt: skip


@router.get("/new/{name}/costs", dependencies=[Depends(allow("edit"))])
def costs(  # noqa: PLR0913, PLR0917  # the fields of a form
    request: Request,
    studio: StudioDep,
    name: str,
    prompt: str = "",
    answer: str = "",
    want: str = "",
    target: str = "",
    budget: str = "",
    memory: str = "",
) -> Response:
    """The techniques by what is expected of them, with what each takes."""
    draft = find_draft(studio.workspace, name)
    choices = IntakeChoices(prompt=_column(prompt), answer=_column(answer), want=_want(want))
    recipe_proposal = studio.proposals.propose(studio.workspace, draft, choices)
    options = AdviceOptions(target=target.strip() or None, budget=budget.strip() or None, memory=memory.strip() or None)
    advice, error = None, None
    try:
        advice = advise_on_draft(studio.workspace, draft, recipe_proposal, options)
    except LuthierError as refused:
        error = refused
    return render(
        request, "draft_costs.html.jinja", draft=draft, advice=advice, error=error, options=options,
        query=urlencode({"prompt": prompt, "answer": answer, "want": want}),
    )  # fmt: skip


def _want(text: str) -> Want | None:
    return next((want for want in WANTS if want == text), None)


def _column(text: str) -> str | None:
    return text.replace("\\n", "\n").strip(" ") or None


@router.post("/new/{name}/command", dependencies=[Depends(allow("edit", action=""))])
def command(request: Request, studio: StudioDep, form: FormDep, name: str) -> Response:
    """Show the command line equivalent of the form."""
    draft = find_draft(studio.workspace, name)
    return render(request, "command.html.jinja", words=_choices(form).words(draft))


@router.post("/new/{name}", dependencies=[Depends(allow("edit", action="project.create"))])
def write(form: FormDep, studio: StudioDep, name: str) -> Response:
    """Write the recipe, and go to its project."""
    write_draft_recipe(studio.workspace, find_draft(studio.workspace, name), _choices(form))
    return RedirectResponse(f"/projects/{name}", 303)


def _choices(form: FormData) -> IntakeChoices:
    """What was chosen: switches that are on are sent, of those that were shown."""
    shown, on = json.loads(text_of(form, "shown") or "[]"), form.getlist("op")
    if not isinstance(shown, list):
        raise InputError(_("the form is not as expected"), hint=_("load the page again"))
    named = text_of(form, "technique")
    technique: TechniqueKind | Literal["auto"] = next(
        (kind for kind in get_args(TechniqueKind) if kind == named), "auto"
    )
    return IntakeChoices(
        prompt=_column(text_of(form, "prompt")),
        answer=_column(text_of(form, "answer")),
        without=tuple(str(kind) for kind in shown if kind not in on),
        technique=technique,
        want=_want(text_of(form, "want")),
        model=text_of(form, "model") if technique != "plain" and text_of(form, "model") in CATALOG else None,
    )


@router.post("/new/{name}/discard", dependencies=[Depends(allow("edit", action="project.discard"))])
def discard(form: FormDep, studio: StudioDep, name: str) -> Response:
    """Remove what came in."""
    discard_draft(find_draft(studio.workspace, name))
    return RedirectResponse("/", 303)
