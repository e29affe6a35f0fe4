"""A new project: rows come in, what they hold is shown, and the recipe is written."""

from __future__ import annotations

import io
import json
from typing import Literal

from fastapi import APIRouter, Depends
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from luthier.commands.projects.intake import (
    KINDS,
    MOST_BYTES,
    IntakeChoices,
    create_draft,
    discard_draft,
    find_draft,
    write_draft_recipe,
)
from luthier.core.errors import InputError, LuthierError, SourceLocation
from luthier.models.catalog import CATALOG
from luthier.studio.pages import render
from luthier.studio.people import allow
from luthier.studio.state import FormDep, StudioDep, text_of

router = APIRouter()


@router.get("/new", dependencies=[Depends(allow("edit"))])
def new(request: Request) -> Response:
    """Where rows are dropped or pasted."""
    return _new_page(request, None)


def _new_page(request: Request, error: LuthierError | None, name: str = "", pasted: str = "") -> Response:
    status = 200 if error is None else 400
    return render(
        request, "new.html.jinja", status, kinds=KINDS, most=MOST_BYTES, error=error, name=name, pasted=pasted
    )  # fmt: skip


@router.post("/new", dependencies=[Depends(allow("edit", action="project.begin"))])
def upload(request: Request, studio: StudioDep, form: FormDep) -> Response:
    """Keep the rows, and go on to what they hold."""
    name, pasted, file = text_of(form, "name").strip(), text_of(form, "pasted"), form.get("file")
    try:
        if isinstance(file, UploadFile) and file.filename:
            draft = create_draft(studio.workspace, name, file.filename, file.file)
        elif pasted.strip():
            draft = create_draft(studio.workspace, name, _pasted_name(pasted), io.BytesIO(pasted.encode()))
        else:
            raise InputError("there are no rows", where=SourceLocation(field="file"), hint="choose a file, or paste")
    except LuthierError as error:
        return _new_page(request, error, name, pasted)
    return RedirectResponse(f"/new/{draft.name}", 303)


def _pasted_name(text: str) -> str:
    """What to call rows that were pasted: JSON lines, a JSON list, or a table."""
    first = text.lstrip()[:1]
    if first == "[":
        return "pasted.json"
    return "pasted.jsonl" if first == "{" else "pasted.csv"


@router.get("/new/{name}", dependencies=[Depends(allow("edit"))])
def draft(request: Request, studio: StudioDep, name: str, prompt: str = "", answer: str = "") -> Response:
    """What came in; the look at its rows, which may take a while, follows."""
    found = find_draft(studio.workspace, name)
    return render(request, "draft.html.jinja", draft=found, prompt=prompt, answer=answer)


@router.get("/new/{name}/proposal", dependencies=[Depends(allow("edit"))])
def proposal(request: Request, studio: StudioDep, name: str, prompt: str = "", answer: str = "") -> Response:
    """What the rows hold, and what is proposed for them."""
    found = find_draft(studio.workspace, name)
    choices = IntakeChoices(prompt=_column(prompt), answer=_column(answer))
    try:
        made = studio.proposals.propose(found, choices)
    except LuthierError as error:
        return render(request, "draft_error.html.jinja", draft=found, error=error)
    words = choices.words(found)
    return render(
        request, "proposal.html.jinja", draft=found, proposal=made, profile=made.profile, choices=choices,
        catalog=CATALOG, words=words,
    )  # fmt: skip


def _column(text: str) -> str | None:
    return text.replace("\\n", "\n").strip(" ") or None


@router.post("/new/{name}/command", dependencies=[Depends(allow("edit", action=""))])
def command(request: Request, studio: StudioDep, form: FormDep, name: str) -> Response:
    """The command that does what is chosen."""
    found = find_draft(studio.workspace, name)
    return render(request, "command.html.jinja", words=_choices(form).words(found))


@router.post("/new/{name}", dependencies=[Depends(allow("edit", action="project.create"))])
def write(form: FormDep, studio: StudioDep, name: str) -> Response:
    """Write the recipe, and go to its project."""
    write_draft_recipe(studio.workspace, find_draft(studio.workspace, name), _choices(form))
    return RedirectResponse(f"/projects/{name}", 303)


def _choices(form: FormData) -> IntakeChoices:
    """What was chosen: switches that are on are sent, of those that were shown."""
    shown, on = json.loads(text_of(form, "shown") or "[]"), form.getlist("op")
    if not isinstance(shown, list):
        raise InputError("the form is not as expected", hint="load the page again")
    technique: Literal["lora", "plain"] = "plain" if text_of(form, "technique") == "plain" else "lora"
    return IntakeChoices(
        prompt=_column(text_of(form, "prompt")),
        answer=_column(text_of(form, "answer")),
        without=tuple(str(kind) for kind in shown if kind not in on),
        technique=technique,
        model=text_of(form, "model") if technique == "lora" and text_of(form, "model") in CATALOG else None,
    )


@router.post("/new/{name}/discard", dependencies=[Depends(allow("edit", action="project.discard"))])
def discard(form: FormDep, studio: StudioDep, name: str) -> Response:
    """Remove what came in."""
    discard_draft(find_draft(studio.workspace, name))
    return RedirectResponse("/", 303)
