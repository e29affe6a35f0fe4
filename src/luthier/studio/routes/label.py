"""Answering questions about items: the projects, and the page on which one item after another is answered.

What a person may not see before answering never leaves the server here: known answers, proposals that are hidden, which
model wrote what, and others' answers.
"""

from __future__ import annotations

import logging
import random
import threading
from typing import Any, Literal

from fastapi import APIRouter, BackgroundTasks, Depends
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from luthier.annotation.comments import add_comment, read_thread
from luthier.annotation.media import find_shown_item
from luthier.annotation.project import AnnotationProject, get_project, list_projects
from luthier.annotation.queue import AnnotationQueue, AnswerSubmission, LeasedItem
from luthier.commands.labeling.create import run_in_other_process
from luthier.core.errors import InputError, LuthierError, SourceLocation, UnknownName
from luthier.studio.media import media_response
from luthier.studio.pages import format_number, render
from luthier.studio.people import PersonDep, allow, require_right
from luthier.studio.state import FormDep, Studio, StudioDep, text_of
from luthier.studio.translation import gettext as _
from luthier.studio.translation import ngettext


def check_purpose(request: Request, studio: StudioDep, person: PersonDep, project_id: str) -> None:
    """403 for a person who may label, where the items are production output that is reviewed."""
    try:
        purpose = get_project(studio.ledger, project_id).settings.purpose
    except UnknownName:
        return  # the route says so, once it has looked at the form's token
    if purpose == "review":
        require_right(request, person, "review", *studio.find_labelling(project_id))


router = APIRouter()
_MAY_LABEL = [Depends(allow("label")), Depends(check_purpose)]
_HELD = TypeAdapter(list[int])
_MOST_HELD = 1000
_ORDERED_EVERY = 50
_ORDERING = threading.Lock()
_LOG = logging.getLogger("luthier.studio")


@router.get("/label", dependencies=[Depends(allow("label", anywhere=True))])
def projects(request: Request, studio: StudioDep, person: PersonDep) -> Response:
    """The projects in which a person can answer."""
    found = [
        (project, queue.progress(), queue.person_progress(person.id))
        for project in list_projects(studio.ledger, purpose="labeling")
        if person.may("label", *studio.find_labelling(project.id))
        for queue in [AnnotationQueue(studio.ledger, project.id)]
    ]
    return render(request, "label_projects.html.jinja", projects=found)


@router.get("/label/{project_id}", dependencies=_MAY_LABEL)
def label(request: Request, studio: StudioDep, person: PersonDep, project_id: str) -> Response:
    """The page on which a person answers."""
    project = get_project(studio.ledger, project_id)
    queue = AnnotationQueue(studio.ledger, project_id)
    return render(
        request, "label.html.jinja", project=project, person=person, progress=queue.progress(),
        mine=queue.person_progress(person.id),
    )  # fmt: skip


@router.get("/label/{project_id}/guidelines", dependencies=_MAY_LABEL)
def guidelines(request: Request, studio: StudioDep, project_id: str) -> Response:
    """The guidelines of now, as the piece of the page."""
    return render(request, "label_guidelines.html.jinja", project=get_project(studio.ledger, project_id))


@router.get("/label/{project_id}/items/{item}/media/{digest}", dependencies=_MAY_LABEL)
def item_media(
    request: Request, studio: StudioDep, person: PersonDep, project_id: str, item: int, digest: str,
    side: Literal["", "160", "1200"] = "",
) -> Response:  # fmt: skip
    """A picture or a sound of an item, for those who got the item and those who may see all; pictures also at most so
    many pixels a side."""
    project = get_project(studio.ledger, project_id)
    own = studio.find_labelling(project_id)
    sees_all = person.may("review", *own) or person.may("edit", *own)
    shown = find_shown_item(studio.ledger, project_id, item, None if sees_all else person.id)
    medium = next((medium for medium in shown.media if medium.digest == digest), None)
    if medium is None:
        raise UnknownName(_("There is no such picture or sound here."))
    try:
        return media_response(request, studio.item_media.read(project, medium, int(side or 0)))
    except (LuthierError, OSError) as error:
        raise UnknownName(_("It cannot be shown: its bytes are gone or broken.")) from error


@router.post("/label/{project_id}/next", dependencies=_MAY_LABEL)
def next_item(request: Request, studio: StudioDep, person: PersonDep, form: FormDep, project_id: str) -> Response:
    """Another item for a person, besides those that the person's page has."""
    held = _read(_HELD, text_of(form, "held") or "[]", "held")[:_MOST_HELD]
    project, queue = get_project(studio.ledger, project_id), AnnotationQueue(studio.ledger, project_id)
    leased = queue.next_item(person.id, held=held)
    if leased is None:
        person_progress = queue.person_progress(person.id)
        state = "closed" if project.state == "closed" else "done" if person_progress.qualified else "unqualified"
        return JSONResponse({"item": None, "state": state, "waits": _count_waiting(queue)})
    item = _to_json(request, studio, project, person.id, leased)
    return JSONResponse({"item": item, "waits": _count_waiting(queue)})


def _count_waiting(queue: AnnotationQueue) -> str:
    """How many items wait, in words."""
    count = queue.progress().waiting
    return ngettext("%(number)s item waits", "%(number)s items wait", count) % {"number": format_number(count)}


@router.post("/label/{project_id}/submit", dependencies=_MAY_LABEL)
def submit(studio: StudioDep, person: PersonDep, form: FormDep, project_id: str, after: BackgroundTasks) -> Response:
    """Keep an answer; 422 with the reason where it can never be kept. About every fiftieth, items are ordered anew."""
    try:
        submission = _read(TypeAdapter(AnswerSubmission), text_of(form, "submission"), "submission")
        outcome = AnnotationQueue(studio.ledger, project_id).submit(person.id, submission)
    except InputError as error:
        if not isinstance(error, UnknownName) and error.where.field not in ("values", "submission"):
            raise  # the database is away, or the like: the page sends the answer again
        return JSONResponse({"error": error.message}, 422)
    if outcome.kept and random.random() < 1 / _ORDERED_EVERY:
        after.add_task(_order_anew, studio, project_id)
    return JSONResponse(outcome._asdict())


def _order_anew(studio: Studio, project_id: str) -> None:
    """Let another process order the items of a project that asks for the most useful first; one at a time."""
    if get_project(studio.ledger, project_id).settings.order != "priority" or not _ORDERING.acquire(blocking=False):
        return
    try:
        run_in_other_process(studio.workspace, "label", "order", project_id)
    except LuthierError as error:
        _LOG.warning("the items of %s keep their order: %s", project_id, error)
    finally:
        _ORDERING.release()


@router.post("/label/{project_id}/undo", dependencies=_MAY_LABEL)
def undo(request: Request, studio: StudioDep, person: PersonDep, form: FormDep, project_id: str) -> Response:
    """Take back a person's last answer, and give the item to the person again."""
    project = get_project(studio.ledger, project_id)
    queue = AnnotationQueue(studio.ledger, project_id)
    leased = queue.undo(person.id)
    item = None if leased is None else _to_json(request, studio, project, person.id, leased)
    return JSONResponse({"item": item, "answered": queue.person_progress(person.id).answered})


@router.post("/label/{project_id}/release", dependencies=_MAY_LABEL)
def release(studio: StudioDep, person: PersonDep, form: FormDep, project_id: str) -> Response:
    """Give back items that were fetched ahead, when the page is left."""
    queue = AnnotationQueue(studio.ledger, project_id)
    for item in _read(_HELD, text_of(form, "held") or "[]", "held")[:_MOST_HELD]:
        queue.release(person.id, item)
    return Response(status_code=204)


@router.post("/label/{project_id}/items/{item}/comments", dependencies=_MAY_LABEL)
def comment(
    request: Request, studio: StudioDep, person: PersonDep, form: FormDep, project_id: str, item: int
) -> Response:
    """Add a remark to an item; the thread comes back."""
    add_comment(studio.ledger, project_id, item, person.id, text_of(form, "text"))
    thread = read_thread(studio.ledger, project_id, item, person.id)
    return render(request, "label_thread.html.jinja", thread=thread, project=project_id, item=item)


def _read(kind: TypeAdapter[Any], text: str, field: str) -> Any:
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        raise InputError(_("this is not what the page sends"), where=SourceLocation(field=field)) from error


def _to_json(
    request: Request, studio: Studio, project: AnnotationProject, person: str, leased: LeasedItem
) -> dict[str, Any]:
    """An item as the page takes it: its piece, written by a template, which escapes whatever it shows."""
    value = leased.previous or leased.proposal or {}
    thread = read_thread(studio.ledger, project.id, leased.id, person)
    piece = render(
        request, "label_item.html.jinja", project=project, leased=leased, value=value, thread=thread,
        unshown=studio.item_media.find_unreadable_media(project, leased.shown),
    )  # fmt: skip
    return {"id": leased.id, "version": leased.guideline_version, "html": bytes(piece.body).decode()}
