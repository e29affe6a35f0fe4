"""Review of production output: queues, one request after another, second opinions, figures, and the next round."""

from __future__ import annotations

import difflib
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from luthier.annotation.queue import AnnotationQueue, AnswerSubmission
from luthier.commands.projects.workspace import find_project_file, list_project_ids
from luthier.commands.review.queues import (
    VERDICTS,
    ReviewQueue,
    build_settings,
    close_review_queue,
    create_review_queue,
    find_review_project,
    get_review_queue,
    list_review_queues,
)
from luthier.commands.review.results import compute_review_results, list_fed_alerts
from luthier.commands.review.rounds import find_next_round_file, read_next_round, write_next_round
from luthier.commands.review.similar import find_alike_rows
from luthier.commands.review.verdicts import (
    ReviewedItem,
    ask_second_opinion,
    decide_opinion,
    get_reviewed_item,
    iterate_reviewed_items,
    submit_verdict,
)
from luthier.core.errors import InputError, LuthierError, SourceLocation
from luthier.studio.pages import render
from luthier.studio.people import PersonDep, allow, require_recipe_right, require_right
from luthier.studio.state import FormDep, Studio, StudioDep, text_of
from luthier.studio.translation import gettext as _

router = APIRouter()
MAY_REVIEW, MAY_EDIT = Depends(allow("review")), Depends(allow("edit"))
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
_MOST_COMPARED = 20_000
"""Characters of a text whose words are compared; of a longer one, its lines are."""
_MOST_LISTED = 500


@router.get("/review", dependencies=[Depends(allow("review", anywhere=True))])
def queues(request: Request, studio: StudioDep, person: PersonDep, project: str = "") -> Response:
    """A person's queues, or those of a project: how they fill, and how many requests wait."""
    review_queues = list_review_queues(studio.ledger, project=project or None)
    review_queues = [
        review_queue for review_queue in review_queues if person.may("review", *studio.find_labelling(review_queue.id))
    ]
    names = person.projects_with("edit", list_project_ids(studio.workspace))
    return render(request, "review_queues.html.jinja", queues=review_queues, projects=names, project=project)


@router.post("/review", dependencies=[Depends(allow("edit", anywhere=True))])
def create(request: Request, studio: StudioDep, person: PersonDep, form: FormDep) -> Response:
    """Begin a queue."""
    project = text_of(form, "project")
    require_right(request, person, "edit", project)
    settings = build_settings(
        where=text_of(form, "where"),
        chance=_percent(text_of(form, "chance"), "chance"),
        low_confidence=_percent(text_of(form, "low_confidence"), "low_confidence"),
        thumbs_down=bool(text_of(form, "thumbs_down")),
        shadow=bool(text_of(form, "shadow")),
        alerts=bool(text_of(form, "alerts")),
        only=text_of(form, "only"),
        since=datetime.now(UTC) - timedelta(days=_whole(text_of(form, "days") or "7", "days")),
    )
    project = find_review_project(studio.workspace, project or None)
    review_queue = create_review_queue(studio.ledger, text_of(form, "name"), settings, project=project, by=person.id)
    studio.review.start()
    return RedirectResponse(f"/review/{review_queue.id}", 303)


def _percent(text: str, field: str) -> float:
    try:
        value = float(text.replace(",", ".") or 0)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise InputError(f"expected 0 to 100 %, got {text[:40]!r}", where=SourceLocation(field=field))
    return value / 100


def _whole(text: str, field: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) <= 3650:
        raise InputError(f"expected a number from 1 to 3650, got {text[:40]!r}", where=SourceLocation(field=field))
    return int(text)


@router.get("/review/{project_id}", dependencies=[MAY_REVIEW])
def review(request: Request, studio: StudioDep, person: PersonDep, project_id: str) -> Response:
    """The next request for a person."""
    queue = get_review_queue(studio.ledger, project_id)
    leased = AnnotationQueue(studio.ledger, project_id).next_item(person.id)
    if leased is None:
        return render(request, "review_done.html.jinja", queue=queue, filling=studio.review.is_filling)
    return _show(request, studio, queue, get_reviewed_item(studio.ledger, queue, leased.id), person.id)


def _show(request: Request, studio: Studio, queue: ReviewQueue, item: ReviewedItem, person: str) -> Response:
    """A request; of other people's opinions only once the person has given one, or need not."""
    has_it = person in item.waits_for
    opinion = next((entry for entry in item.opinions if entry.by == person), None)
    return render(
        request, "review.html.jinja", queue=queue, item=item, mine=opinion, verdicts=VERDICTS,
        may_answer=has_it or opinion is not None, is_second=has_it and opinion is None and bool(item.opinions),
        opinions=() if has_it and opinion is None else item.opinions, submission=secrets.token_hex(16),
        answer=item.shown.answers[0] if item.shown.answers else "", person=person,
        unshown=studio.item_media.find_unreadable_media(queue.annotation, item.shown),
    )  # fmt: skip


@router.post("/review/{project_id}/answer", dependencies=[MAY_REVIEW])
def answer(studio: StudioDep, person: PersonDep, form: FormDep, project_id: str) -> Response:
    """Keep a verdict, or skip; the next request comes."""
    item = _item_id(text_of(form, "item"))
    submission = text_of(form, "submission")
    if text_of(form, "skip"):
        skipped = AnswerSubmission(id=submission, item=item, kind="skip")
        AnnotationQueue(studio.ledger, project_id).submit(person.id, skipped)
        return RedirectResponse(f"/review/{project_id}", 303)
    queue = get_review_queue(studio.ledger, project_id)
    shown = get_reviewed_item(studio.ledger, queue, item).shown
    new_type = " ".join(text_of(form, "new_type").split())[:100]
    types = [entry for entry in form.getlist("types") if isinstance(entry, str)]
    types += [new_type] if new_type else []
    correction = text_of(form, "correction").strip()
    values: dict[str, Any] = {
        "verdict": text_of(form, "verdict"),
        "label": text_of(form, "label").strip(),
        "correction": "" if correction == (shown.answers[0] if shown.answers else "").strip() else correction,
        "types": types,
        "marks": {"spans": _marks(text_of(form, "marks"), types)},
    }
    values = {name: value for name, value in values.items() if value and value != {"spans": []}}
    given = AnswerSubmission(id=submission, item=item, values=values, comment=text_of(form, "comment")[:10_000])
    submit_verdict(
        studio.ledger, studio.workspace, project_id, given, by=person.id, new_types=[new_type] if new_type else []
    )
    back = f"/review/{project_id}/items/{item}" if text_of(form, "stay") else f"/review/{project_id}"
    return RedirectResponse(back, 303)


def _item_id(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise InputError(_("there is no such request"), where=SourceLocation(field="item"))
    return int(text)


def _marks(text: str, types: Sequence[str]) -> list[dict[str, str]]:
    """Parts of the answer, one a line, of the first type of failure that is named."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if lines and not types:
        raise InputError(_("say what is wrong with the marked parts"), where=SourceLocation(field="types"))
    return [{"text": line, "label": types[0]} for line in lines]


@router.post("/review/{project_id}/diff", dependencies=[MAY_REVIEW])
def diff(request: Request, studio: StudioDep, form: FormDep, project_id: str) -> Response:
    """What a correction changes, before it is kept."""
    queue = get_review_queue(studio.ledger, project_id)
    item = get_reviewed_item(studio.ledger, queue, _item_id(text_of(form, "item")))
    before = item.shown.answers[0] if item.shown.answers else ""
    return render(request, "review_diff.html.jinja", parts=compare_texts(before, text_of(form, "correction")))


def compare_texts(before: str, after: str) -> list[tuple[str, str]]:
    """A text as pieces that stay (`same`), go (`del`) or come (`ins`), word by word; of long texts, line by line."""
    if max(len(before), len(after)) > _MOST_COMPARED:
        old, new = before.splitlines(keepends=True)[:5000], after.splitlines(keepends=True)[:5000]
    else:
        old, new = _WORDS.findall(before), _WORDS.findall(after)
    found: list[tuple[str, str]] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=len(old) > 2000).get_opcodes():
        if kind == "equal":
            found.append(("same", "".join(old[a:b])))
            continue
        found += [(name, text) for name, text in (("del", "".join(old[a:b])), ("ins", "".join(new[c:d]))) if text]
    return found


@router.get("/review/{project_id}/items", dependencies=[MAY_REVIEW])
def items(request: Request, studio: StudioDep, project_id: str, only: str = "") -> Response:
    """What was reviewed, the latest first; those on which people differ before all."""
    queue = get_review_queue(studio.ledger, project_id)
    reviewed_items = [
        reviewed_item for reviewed_item in iterate_reviewed_items(studio.ledger, queue) if reviewed_item.opinions
    ]
    reviewed_items = [
        reviewed_item for reviewed_item in reviewed_items if only != "disputed" or reviewed_item.is_disputed
    ]
    reviewed_items.sort(
        key=lambda reviewed_item: (
            not reviewed_item.is_disputed,
            -max(o.at.timestamp() for o in reviewed_item.opinions),
        )
    )
    shown = reviewed_items[:_MOST_LISTED]
    return render(request, "review_items.html.jinja", queue=queue, items=shown, count=len(reviewed_items), only=only)


@router.get("/review/{project_id}/items/{item}", dependencies=[MAY_REVIEW])
def item_page(request: Request, studio: StudioDep, person: PersonDep, project_id: str, item: int) -> Response:
    """One request that was reviewed, with all opinions."""
    queue = get_review_queue(studio.ledger, project_id)
    return _show(request, studio, queue, get_reviewed_item(studio.ledger, queue, item), person.id)


@router.get("/review/{project_id}/items/{item}/alike", dependencies=[MAY_REVIEW])
def alike(request: Request, studio: StudioDep, project_id: str, item: int) -> Response:
    """The training rows that are most like a request, as the piece of the page."""
    queue = get_review_queue(studio.ledger, project_id)
    shown = get_reviewed_item(studio.ledger, queue, item).shown
    text = "\n".join(str(message.get("content") or "") for message in shown.messages if message.get("role") == "user")
    try:
        rows = find_alike_rows(studio.workspace, find_project_file(studio.workspace, queue.project), text)
    except LuthierError as error:
        return render(request, "review_alike.html.jinja", rows=[], queue=queue, error=error)
    return render(request, "review_alike.html.jinja", rows=rows, queue=queue, error=None)


@router.post("/review/{project_id}/items/{item}/second", dependencies=[MAY_REVIEW])
def second(studio: StudioDep, person: PersonDep, form: FormDep, project_id: str, item: int) -> Response:
    """Ask another person, who does not see what was said."""
    other = text_of(form, "person").strip()
    ask_second_opinion(studio.ledger, get_review_queue(studio.ledger, project_id), item, other)
    return RedirectResponse(f"/review/{project_id}/items/{item}", 303)


@router.post("/review/{project_id}/items/{item}/decide", dependencies=[Depends(allow("own"))])
def decide(studio: StudioDep, person: PersonDep, form: FormDep, project_id: str, item: int) -> Response:
    """Let one of several opinions count."""
    queue = get_review_queue(studio.ledger, project_id)
    decide_opinion(studio.ledger, studio.workspace, queue, item, text_of(form, "by"), by=person.id)
    return RedirectResponse(f"/review/{project_id}/items/{item}", 303)


@router.get("/review/{project_id}/results", dependencies=[MAY_REVIEW])
def results(request: Request, studio: StudioDep, project_id: str) -> Response:
    """Accuracy and failure shares of all requests, with intervals, by release and slice."""
    queue = get_review_queue(studio.ledger, project_id)
    review_results, alerts = compute_review_results(studio.ledger, queue), list_fed_alerts(studio.workspace, queue)
    return render(request, "review_results.html.jinja", queue=queue, found=review_results, alerts=alerts)


@router.post("/review/{project_id}/fill", dependencies=[MAY_REVIEW])
def fill(studio: StudioDep, form: FormDep, project_id: str) -> Response:
    """Draw the requests that came since, now."""
    studio.review.start()
    return RedirectResponse(f"/review/{get_review_queue(studio.ledger, project_id).id}", 303)


@router.post("/review/{project_id}/close", dependencies=[MAY_EDIT])
def close(studio: StudioDep, form: FormDep, project_id: str) -> Response:
    """Close a queue, or open it again."""
    close_review_queue(studio.ledger, project_id, again=bool(text_of(form, "again")))
    return RedirectResponse("/review", 303)


@router.post("/review/{project_id}/next-round", dependencies=[MAY_EDIT])
def next_round(request: Request, studio: StudioDep, person: PersonDep, form: FormDep, project_id: str) -> Response:
    """Write the next recipe from what was said."""
    require_recipe_right(request, person, project_id)
    written = write_next_round(studio.ledger, studio.workspace, get_review_queue(studio.ledger, project_id))
    return RedirectResponse(f"/review/{project_id}/rounds/{written.path.name}", 303)


@router.get("/review/{project_id}/rounds/{recipe}", dependencies=[MAY_REVIEW])
def round_page(request: Request, studio: StudioDep, project_id: str, recipe: str) -> Response:
    """The next recipe and its rows, before it is run."""
    queue = get_review_queue(studio.ledger, project_id)
    next_round = read_next_round(studio.workspace, queue, recipe)
    file = find_next_round_file(studio.workspace, queue, recipe)
    return render(
        request, "review_round.html.jinja", queue=queue, round=next_round, file=file, runs=studio.queue.of(file)[:5]
    )


@router.post("/review/{project_id}/rounds/{recipe}/run", dependencies=[MAY_EDIT])
def run_round(
    request: Request, studio: StudioDep, person: PersonDep, form: FormDep, project_id: str, recipe: str
) -> Response:
    """Ask for a run of the next recipe."""
    require_recipe_right(request, person, project_id)
    queue = get_review_queue(studio.ledger, project_id)
    added = studio.queue.add(find_next_round_file(studio.workspace, queue, recipe))
    return RedirectResponse(f"/runs/{added.id}", 303)
