"""Making and managing labeling projects: rows and questions, progress and people, disagreements, many items at once."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any

from fastapi import APIRouter, Depends
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from luthier.annotation.comments import add_comment, list_comments
from luthier.annotation.project import (
    ProjectSettings,
    get_project,
    list_guidelines,
    set_project_state,
    update_guidelines,
    update_settings,
)
from luthier.annotation.queue import AnnotationQueue
from luthier.annotation.results import find_items, label_items, list_disagreements, record_decision
from luthier.commands.labeling.create import (
    LabelingRows,
    create_labeling_project,
    find_near_twins,
    make_settings,
    open_step_rows,
    open_uploaded_rows,
    run_in_other_process,
    suggest_decisions,
    write_training_recipe,
)
from luthier.commands.labeling.measure import measure_in_other_process, measure_project
from luthier.commands.projects.workspace import load_made_plan
from luthier.core.errors import InputError, LuthierError, SourceLocation
from luthier.studio.pages import render
from luthier.studio.people import PersonDep, allow, require_recipe_right, require_right
from luthier.studio.state import FormDep, Studio, StudioDep, text_of
from luthier.studio.translation import gettext as _

router = APIRouter()
_ASKED = ("choice", "choices", "tree", "spans", "text", "rating", "correction", "pair")
_WITH_LABELS = frozenset({"choice", "choices", "tree", "spans"})
_MOST_SHOWN = 50


@router.get("/label/new", dependencies=[Depends(allow("edit", anywhere=True))])
def new(request: Request, studio: StudioDep, person: PersonDep, project: str = "", step: str = "") -> Response:
    """Where rows are chosen, and what is asked about them."""
    require_right(request, person, "edit", project)
    return _new_page(request, studio, project, step, None, {})


def _new_page(
    request: Request, studio: Studio, project: str, step: str, error: LuthierError | None, given: dict[str, str]
) -> Response:
    rows = ""
    if project:
        rows = str(studio.workspace.shorten(studio.find_recipe(project)))
    return render(
        request, "label_new.html.jinja", 200 if error is None else 400, project=project, step=step, rows=rows,
        error=error, given=given, kinds=_ASKED,
    )  # fmt: skip


@router.post("/label/new", dependencies=[Depends(allow("edit", anywhere=True))])
def create(request: Request, studio: StudioDep, person: PersonDep, form: FormDep) -> Response:
    """Make the project."""
    project, step = text_of(form, "project"), text_of(form, "step")
    require_right(request, person, "edit", project)
    given = {name: text_of(form, name) for name in ("name", "kind", "labels", "guidelines", "overlap", "text", "gold")}
    try:
        settings = _settings(given)
        rows = _open_rows(studio, form, settings, given, project, step)
        made = create_labeling_project(studio.ledger, given["name"], rows, project=project, by=person.id)[0]
    except LuthierError as error:
        return _new_page(request, studio, project, step, error, given)
    return RedirectResponse(f"/label/{made.id}/manage", 303)


def _settings(given: dict[str, str]) -> ProjectSettings:
    kind = given["kind"]
    if kind not in _ASKED:
        raise InputError(_("choose what is asked"), where=SourceLocation(field="kind"))
    labels = [line.strip() for line in given["labels"].splitlines() if line.strip()] if kind in _WITH_LABELS else []
    gold = 0.1 if given["gold"] else 0.0
    more = {"guidelines": given["guidelines"], "overlap": given["overlap"] or 1, "gold_share": gold}
    return make_settings(kind, labels, **more)


def _open_rows(
    studio: Studio, form: FormData, settings: ProjectSettings, given: dict[str, str], project: str, step: str
) -> LabelingRows:
    file = form.get("file")
    if isinstance(file, UploadFile) and file.filename:
        name, columns = PurePath(file.filename).name, {"text": given["text"], "gold": given["gold"]}
        return open_uploaded_rows(studio.workspace, studio.ledger, name, file.file, settings, **columns)
    if not project:
        raise InputError(_("there are no rows"), where=SourceLocation(field="file"), hint=_("choose a file"))
    made_plan = load_made_plan(studio.workspace, studio.find_recipe(project), "dataset")
    steps = [planned.name for planned in made_plan.plan if planned.step.makes == "dataset" and planned.cached]
    if not steps or (step and step not in steps):
        raise InputError(_("no rows are prepared yet"), hint=_("run the project first"))
    with_answers = given["kind"] in ("rating", "correction")
    return open_step_rows(made_plan.plan, step or steps[0], settings, studio.ledger, with_answers=with_answers)


@router.get("/label/{project_id}/manage", dependencies=[Depends(allow("edit"))])
def manage(request: Request, studio: StudioDep, project_id: str, search: str = "", state: str = "") -> Response:
    """How a project stands: progress, people, guidelines, settings; and items by search."""
    return _manage_page(request, studio, project_id, search=search, state=state)


def _manage_page(
    request: Request, studio: Studio, project_id: str, *, search: str = "", state: str = "",
    error: LuthierError | None = None, message: str = "",
) -> Response:  # fmt: skip
    project = get_project(studio.ledger, project_id)
    queue = AnnotationQueue(studio.ledger, project_id)
    flagged = find_items(studio.ledger, project_id, state="flagged", limit=_MOST_SHOWN)
    answered_items = (
        find_items(studio.ledger, project_id, search=search, state=state, limit=_MOST_SHOWN) if search or state else []
    )
    return render(
        request, "label_manage.html.jinja", 200 if error is None else 400, project=project, progress=queue.progress(),
        measures=measure_project(studio.ledger, project_id), versions=list_guidelines(studio.ledger, project_id),
        flagged=flagged, threads=list_comments(studio.ledger, project_id, [answered.item.id for answered in flagged]),
        found=answered_items, search=search, state=state, error=error, message=message,
        questions=_plain(project.settings),
    )  # fmt: skip


@router.get("/label/{project_id}/measures", dependencies=[Depends(allow("edit"))])
def measures(request: Request, studio: StudioDep, project_id: str) -> Response:
    """Agreement beyond chance and what more labels would bring, as a piece of the page; another process counts."""
    slow = measure_in_other_process(studio.workspace, get_project(studio.ledger, project_id).id)
    return render(request, "label_measures.html.jinja", slow=slow)


@router.post("/label/{project_id}/guidelines", dependencies=[Depends(allow("edit"))])
def change_guidelines(
    request: Request, studio: StudioDep, person: PersonDep, form: FormDep, project_id: str
) -> Response:
    """A new version of guidelines and questions."""
    from luthier.annotation.question import Question

    project = get_project(studio.ledger, project_id)
    try:
        questions = _questions(project.settings, text_of(form, "questions"), Question)
        update_guidelines(
            studio.ledger, project_id, guidelines=text_of(form, "guidelines"), questions=questions, by=person.id
        )
    except LuthierError as error:
        return _manage_page(request, studio, project_id, error=error)
    return RedirectResponse(f"/label/{project_id}/manage", 303)


def _plain(settings: ProjectSettings) -> str:
    questions = [question.settings() for question in settings.questions.values()]
    return json.dumps(questions, indent=1, ensure_ascii=False)


def _questions(settings: ProjectSettings, text: str, role: Any) -> dict[str, Any] | None:
    """The questions as they were edited, as JSON in the order of those that are there; more get names of their own."""
    from pydantic import ValidationError
    from pydantic_core import PydanticCustomError

    if not text.strip():
        return None
    where = SourceLocation(field="questions")
    try:
        message = json.loads(text)
        if not isinstance(message, list) or not message:
            raise InputError(_("the questions are a list"), where=where)
        names = [*settings.questions, *(f"answer_{number}" for number in range(2, len(message) + 2))]
        return {name: role.parse(entry) for name, entry in zip(names, message, strict=False)}
    except (json.JSONDecodeError, ValidationError, PydanticCustomError, RecursionError) as error:
        raise InputError(f"these are no questions: {error}", where=where) from error


@router.post("/label/{project_id}/settings", dependencies=[Depends(allow("edit"))])
def change_settings(request: Request, studio: StudioDep, form: FormDep, project_id: str) -> Response:
    """How items are given out."""
    from pydantic import ValidationError

    names = ("overlap", "gold_share", "lease_minutes", "order", "hidden_proposal_share", "qualification")
    given = {name: text_of(form, name) for name in names if text_of(form, name)}
    try:
        before = get_project(studio.ledger, project_id).settings
        update_settings(studio.ledger, project_id, **given)
        if given.get("order") == "priority" != before.order and before.purpose == "labeling":
            run_in_other_process(studio.workspace, "label", "order", project_id)
        if (state := text_of(form, "state")) in ("open", "closed"):
            set_project_state(studio.ledger, project_id, "open" if state == "open" else "closed")
    except ValidationError as error:
        first = error.errors()[0]
        wrong = InputError(first["msg"], where=SourceLocation(field=".".join(map(str, first["loc"]))))
        return _manage_page(request, studio, project_id, error=wrong)
    return RedirectResponse(f"/label/{project_id}/manage", 303)


@router.post("/label/{project_id}/bulk", dependencies=[Depends(allow("edit"))])
def bulk(request: Request, studio: StudioDep, person: PersonDep, form: FormDep, project_id: str) -> Response:
    """One answer for all items that were chosen, or for them and their near twins."""
    search = text_of(form, "search")
    chosen = [int(entry) for entry in form.getlist("item") if isinstance(entry, str) and entry.isdecimal()]
    try:
        values = _answer_of(form, studio, project_id)
        if text_of(form, "twins"):
            chosen = find_near_twins(studio.ledger, project_id, chosen)
        if not chosen:
            raise InputError(_("no item is chosen"), where=SourceLocation(field="item"))
        given = label_items(studio.ledger, project_id, chosen, values, by=person.id)
    except LuthierError as error:
        return _manage_page(request, studio, project_id, search=search, error=error)
    return _manage_page(request, studio, project_id, search=search, message=str(given))


def _answer_of(form: FormData, studio: Studio, project_id: str) -> dict[str, Any]:
    """An answer as a form types it, to the first question."""
    from luthier.annotation.question import InvalidAnswer, QuestionItem

    name, question = next(iter(get_project(studio.ledger, project_id).settings.questions.items()))
    try:
        return {name: question.typed(text_of(form, "value"), QuestionItem(({"role": "user", "content": ""},)))}
    except InvalidAnswer as error:
        raise InputError(str(error), where=SourceLocation(field="value")) from error


@router.post("/label/{project_id}/flags/{item}", dependencies=[Depends(allow("review"))])
def resolve_flag(studio: StudioDep, person: PersonDep, form: FormDep, project_id: str, item: int) -> Response:
    """Answer a flag: the item goes back into the queue, or out of the project."""
    if (text := text_of(form, "text")).strip():
        add_comment(studio.ledger, project_id, item, person.id, text, by_reviewer=True)
    AnnotationQueue(studio.ledger, project_id).resolve_flag(
        item, "remove" if text_of(form, "decision") == "remove" else "return"
    )
    return RedirectResponse(f"/label/{project_id}/manage", 303)


@router.get("/label/{project_id}/adjudicate", dependencies=[Depends(allow("review"))])
def adjudicate(request: Request, studio: StudioDep, project_id: str) -> Response:
    """Items about which people differ, side by side, with what the rules would decide."""
    return _adjudicate_page(request, studio, project_id, None)


def _adjudicate_page(request: Request, studio: Studio, project_id: str, error: LuthierError | None) -> Response:
    project = get_project(studio.ledger, project_id)
    answered_items = list_disagreements(studio.ledger, project_id, limit=_MOST_SHOWN)
    ids = [answered_item.item.id for answered_item in answered_items]
    unreadable = [studio.item_media.find_unreadable_media(project, one.item.shown) for one in answered_items]
    return render(
        request, "label_adjudicate.html.jinja", 200 if error is None else 400, project=project, found=answered_items,
        threads=list_comments(studio.ledger, project_id, ids), error=error,
        unshown=frozenset().union(*unreadable),
        suggested=suggest_decisions(answered_items, project.settings),
    )  # fmt: skip


@router.post("/label/{project_id}/adjudicate/{item}", dependencies=[Depends(allow("review"))])
def decide(
    request: Request, studio: StudioDep, person: PersonDep, form: FormDep, project_id: str, item: int
) -> Response:
    """Decide an item: one of the answers that were given, whole."""
    try:
        values = json.loads(text_of(form, "values") or "null")
        if not isinstance(values, dict):
            raise InputError(_("choose an answer"), where=SourceLocation(field="values"))
        record_decision(studio.ledger, project_id, item, values, by=person.id, gold=bool(text_of(form, "gold")))
    except (InputError, json.JSONDecodeError) as error:
        wrong = error if isinstance(error, InputError) else InputError(_("this is no answer"))
        return _adjudicate_page(request, studio, project_id, wrong)
    return RedirectResponse(f"/label/{project_id}/adjudicate", 303)


@router.post("/label/{project_id}/train", dependencies=[Depends(allow("edit"))])
def train(request: Request, studio: StudioDep, person: PersonDep, form: FormDep, project_id: str) -> Response:
    """Write a recipe that learns the labels as they are now."""
    require_recipe_right(request, person, project_id)
    try:
        made = write_training_recipe(studio.workspace, get_project(studio.ledger, project_id).id, text_of(form, "name"))
    except LuthierError as error:
        return _manage_page(request, studio, project_id, error=error)
    return RedirectResponse(f"/projects/{made}/recipe", 303)
