"""Pages of a project's data, with personal data masked until somebody may see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from luthier.chat.media_preview import PREVIEW_SIDE
from luthier.commands.correct import correct_rows, match_class, read_step_decisions
from luthier.commands.lineage import trace_example
from luthier.commands.projects.comparison import compare_versions, list_dataset_versions
from luthier.commands.projects.personal_data import mask_lineage, mask_rows
from luthier.commands.projects.remedies import list_flagged_ids
from luthier.commands.projects.rows import RowFilter, list_turn_media, preview_rows, read_rows_page
from luthier.commands.projects.workspace import MadePlan, list_recipe_runs, load_made_plan
from luthier.core.errors import InputError, LuthierError, UnknownName
from luthier.data.history.corrections import RowCorrection, RowDecision
from luthier.people.audit import record_audit
from luthier.recipe.locate import CommandTarget
from luthier.recipe.predict import UnknownClass
from luthier.studio.pages import render
from luthier.studio.people import Person, PersonDep, allow
from luthier.studio.state import FormDep, Studio, StudioDep, text_of
from luthier.studio.translation import gettext as _

Shown = TypeVar("Shown")
PARAMETER = "unmasked"
"""What an address says that asks to see it."""


def hide_personal_data(
    request: Request, studio: Studio, person: Person, project: str, shown: Shown, mask: Callable[[Shown], Shown]
) -> tuple[Shown, bool]:
    """What a page may show of something, and whether anything of it is masked.

    `?unmasked=true` shows all of it to people with the right `review`: 403 for others.
    """
    masked = mask(shown)
    if masked == shown:
        return shown, False
    if request.query_params.get(PARAMETER) != "true":
        return masked, True
    if not person.may("review", project):
        raise HTTPException(403, _("You have no right to see personal data here."))
    record_audit(studio.ledger, person.id, "personal_data.show", project=project, subject=request.url.path)
    return shown, False


router = APIRouter()


def _chosen_rows(request: Request) -> RowFilter:
    """Which rows an address asks for."""
    query = request.query_params
    texts = {name: query.get(name, "") for name in ("split", "label", "reason", "search", "sort")}
    page = query.get("page", "1")
    slices = tuple(sorted({entry for entry in query.getlist("slice") if "=" in entry}))
    return RowFilter(**texts, slices=slices, page=int(page) if page.isascii() and page.isdigit() else 1)


@router.get("/projects/{name}/data", dependencies=[Depends(allow("view"))])
def rows(
    request: Request, studio: StudioDep, person: PersonDep, name: str,
    chosen: Annotated[RowFilter, Depends(_chosen_rows)], step: str = "",
) -> Response:  # fmt: skip
    """The rows of a data set, a page at a time."""
    file = studio.find_recipe(name)
    made_plan = load_made_plan(studio.workspace, file, "dataset")
    plan = made_plan.plan
    steps = [planned.name for planned in plan if planned.step.makes == "dataset"]
    made = [entry for entry in steps if plan[entry].cached]
    if step and step not in steps:
        raise UnknownName(f"there is no data set {step[:80]!r}", hint=_("choose another step"))
    step = step or next(iter(made), "")
    decisions = read_step_decisions(file, step) if step in made else {}
    named = {"decided=yes": sorted(decisions)} if decisions else {}
    for entry in chosen.slices:
        if entry.startswith("finding="):
            named[entry] = list_flagged_ids(plan, entry.removeprefix("finding="))
    shown, is_masked = None, False
    previews: dict[str, str] = {}
    if step in made:
        page = read_rows_page(plan.artifact(step), chosen, named)
        shown, is_masked = hide_personal_data(request, studio, person, name, page, mask_rows)
        if person.may("review", name):  # what a picture shows is masked for nobody
            previews = preview_rows(plan.artifact(step), (medium for entry in page.rows for medium in entry.media))
    has_findings = any(planned.step.makes == "findings" for planned in plan)
    return render(
        request, "data.html.jinja", name=name, file=studio.workspace.shorten(file), steps=steps, step=step,
        chosen=chosen, shown=shown, of=made_plan, decisions=decisions, has_findings=has_findings,
        is_masked=is_masked, may_show=person.may("review", name), previews=previews,
    )  # fmt: skip


@router.get("/projects/{name}/data/{step}/rows/{row}", dependencies=[Depends(allow("view"))])
def row(request: Request, studio: StudioDep, person: PersonDep, name: str, step: str, row: str) -> Response:
    """One row: where it came from, what was done to it, who learnt it, how models answered it."""
    return _row_page(request, studio, person, name, step, row)


def _row_page(
    request: Request, studio: Studio, person: Person, name: str, step: str, row: str, *,
    error: LuthierError | None = None, written: Mapping[str, str] | None = None,
) -> Response:  # fmt: skip
    """The page of a row; after an error with the texts as they were `written`, by field."""
    file = studio.find_recipe(name)
    made_plan = load_made_plan(studio.workspace, file, "dataset")
    example_lineage = trace_example(row, CommandTarget(studio.workspace, made_plan.word))
    lineage, is_masked = hide_personal_data(request, studio, person, name, example_lineage, mask_lineage)
    decision = read_step_decisions(file, step).get(example_lineage.lineage["id"], RowDecision())
    media = list_turn_media(example_lineage.lineage["messages"] or ()) if person.may("review", name) else []
    previews = preview_rows(made_plan.plan.artifact(step), media, PREVIEW_SIDE) if media else {}
    return render(
        request, "row.html.jinja", 400 if error else 200, name=name, step=step, lineage=lineage, word=made_plan.word,
        decision=decision, is_unknown_class=isinstance(error, UnknownClass),
        texts=[
            (field, role, text if is_masked else (written or {}).get(field, text))
            for field, role, text in _texts(lineage.lineage, RowDecision() if is_masked else decision)
        ],
        labels=_labels(made_plan, step), saved="saved" in request.query_params, error=error,
        may_edit=_is_prepared(made_plan, step) and not is_masked,
        is_masked=is_masked, may_show=person.may("review", name), media=media, previews=previews,
    )  # fmt: skip


def _is_prepared(made: MadePlan, step: str) -> bool:
    return any(planned.name == step and planned.step.kind == "prepare" for planned in made.plan)


def _labels(made: MadePlan, step: str) -> list[str]:
    if not any(planned.name == step and planned.cached for planned in made.plan):
        return []
    from luthier.artifacts.dataset import DatasetSummary

    return DatasetSummary.read(made.plan.artifact(step)).labels


def _texts(row: dict[str, Any], decision: RowDecision) -> list[tuple[str, str, str]]:
    """Of each turn that has a text: its field, its role, and what it will say."""
    found = []
    for at, message in enumerate(row["messages"] or ()):
        field = f"messages[{at}].content"
        if message.get("content") or field in decision.edits:
            edit = decision.edits.get(field)
            found.append((field, message["role"], str(edit.text) if edit else message["content"]))
    return found


@router.post("/projects/{name}/data/{step}/rows/{row}", dependencies=[Depends(allow("edit"))])
def correct(
    request: Request, studio: StudioDep, form: FormDep, person: PersonDep, name: str, step: str, row: str
) -> Response:
    """Change a row's texts, leave it out, or take back what was decided about it."""
    file = studio.find_recipe(name)
    made_plan = load_made_plan(studio.workspace, file, "dataset")
    lineage = trace_example(row, CommandTarget(studio.workspace, made_plan.word)).lineage
    before = _texts(lineage, read_step_decisions(file, step).get(lineage["id"], RowDecision()))
    written = {field: text_of(form, field) for field, _role, _text in before}
    action = text_of(form, "action")
    try:
        texts = {field: written[field] for field, _role, text in before if text != written[field]}
        answer = before[-1][0] if before else ""
        if action == "edit" and texts.get(answer, "").strip() and not text_of(form, "new_class"):
            texts[answer] = match_class(made_plan.plan, step, texts[answer], option=_("tick the box under the label"))
        decided = _decided(action, lineage["id"], texts, text_of(form, "reason"), person)
        correct_rows(studio.workspace, file, step, decided)
    except LuthierError as error:
        return _row_page(
            request, studio, person, name, step, row, error=error, written=written if action == "edit" else {}
        )
    return RedirectResponse(f"{request.url.path}?saved=true", 303)


def _decided(action: str, row: str, texts: dict[str, str], reason: str, person: Person) -> list[RowCorrection]:
    known: dict[str, Any] = {"row": row, "reason": reason.strip()[:2_000], "by": person.id, "at": datetime.now(UTC)}
    if action in ("drop", "restore"):
        return [RowCorrection(action="drop" if action == "drop" else "restore", **known)]
    if action != "edit" or not texts:
        raise InputError(_("nothing was changed"), hint=_("change a text, or leave the row out"))
    if empty := [field for field, text in texts.items() if not text.strip()]:
        raise InputError(_("a text cannot be empty") + f" ({empty[0]})", hint=_("leave the row out instead"))
    return [RowCorrection(action="edit", field=field, text=text, **known) for field, text in texts.items()]


@router.get("/projects/{name}/versions", dependencies=[Depends(allow("view"))])
def versions(
    request: Request, studio: StudioDep, name: str, step: str = "", before: str = "", after: str = ""
) -> Response:
    """The versions of a data set that runs made, two of which are compared."""
    file = studio.find_recipe(name)
    plan = load_made_plan(studio.workspace, file, "dataset").plan
    steps = [planned.name for planned in plan if planned.step.makes == "dataset"]
    step = step or next(iter(steps), "")
    own = studio.workspace.with_folder(file.parent)
    dataset_versions = list_dataset_versions(list_recipe_runs(own, plan.recipe.name), own, step)
    if not (before and after) and len(dataset_versions) > 1:
        before, after = dataset_versions[1].digest, dataset_versions[0].digest
    return render(
        request, "versions.html.jinja", name=name, steps=steps, step=step, versions=dataset_versions, before=before,
        after=after, file=studio.workspace.shorten(file),
    )  # fmt: skip


@router.get("/projects/{name}/versions/difference", dependencies=[Depends(allow("view"))])
def difference(
    request: Request, studio: StudioDep, name: str, step: str = "", before: str = "", after: str = ""
) -> Response:
    """What became of the rows from one version to another; it may take a while."""
    file = studio.find_recipe(name)
    own = studio.workspace.with_folder(file.parent)
    plan = load_made_plan(studio.workspace, file, "dataset").plan
    known = {
        dataset_version.digest
        for dataset_version in list_dataset_versions(list_recipe_runs(own, plan.recipe.name), own, step)
    }
    if not {before, after} <= known:
        raise UnknownName(_("there is no such version of this data set"), hint=_("choose two of those that are listed"))
    store = own.open_store()
    made = compare_versions(studio.comparisons, store.open(before), store.open(after))
    return render(request, "versions_difference.html.jinja", name=name, step=step, difference=made)
