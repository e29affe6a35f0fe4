"""Pages of accounts, roles and invitations, for owners."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from luthier.commands.people import remove_account
from luthier.commands.projects.workspace import list_project_ids
from luthier.core.errors import InputError, LuthierError
from luthier.people.accounts import Account, add_person, list_accounts, set_role
from luthier.people.invitations import create_invitation, list_invitations, withdraw_invitation
from luthier.people.rights import ROLES, WORKSPACE, Person
from luthier.studio.pages import render
from luthier.studio.people import PersonDep, allow
from luthier.studio.security import set_session_cookie
from luthier.studio.state import FormDep, Studio, StudioDep, text_of
from luthier.studio.translation import gettext as _

router = APIRouter(prefix="/people")
_OWN = Depends(allow("own", anywhere=True, action=""))
"""What these forms change is written into the audit log where it is changed."""


@router.get("", dependencies=[_OWN])
def people(request: Request, studio: StudioDep, person: PersonDep) -> Response:
    """Accounts, and open invitations."""
    return _page(request, studio, person)


def _page(
    request: Request, studio: Studio, person: Person, *, error: LuthierError | None = None, invited_by: str = ""
) -> Response:
    projects = _own_projects(studio, person)
    accounts = [account for account in list_accounts(studio.ledger) if _is_shown(account, projects)]
    open_now = [
        invitation for invitation in list_invitations(studio.ledger) if set(invitation.projects) <= set(projects)
    ]
    return render(
        request, "people.html.jinja", 200 if error is None else 400, people=accounts, invitations=open_now,
        projects=projects, roles=ROLES, error=error, link=invited_by, is_owner=person.may("own"),
        titles=studio.list_labellings(),
    )  # fmt: skip


def _own_projects(studio: Studio, person: Person) -> list[str]:
    """The projects in which a person gives roles; all of them (`*`) first."""
    known = [*list_project_ids(studio.workspace), *studio.list_labellings()]
    named = [entry for entry in known if person.may("own", *studio.projects_above(entry))]
    return [WORKSPACE, *named] if person.may("own") else named


def _is_shown(account: Account, projects: list[str]) -> bool:
    return WORKSPACE in projects or any(project in account.roles for project in projects)


def _chosen_projects(studio: Studio, form: FormData, person: Person) -> list[str]:
    """The projects that a form names; 403 where one is not the person's own."""
    chosen = [str(entry) for entry in form.getlist("project")]
    if not chosen or not set(chosen) <= set(_own_projects(studio, person)):
        raise HTTPException(403, _("Choose projects that you own."))
    return chosen


@router.post("/first", dependencies=[_OWN])
def make_owner(request: Request, studio: StudioDep, form: FormDep, person: PersonDep) -> Response:
    """Make the first account; from now on everybody logs in."""
    if request.state.accounts:
        raise HTTPException(403, _("There are accounts already."))
    name, password = text_of(form, "name"), text_of(form, "password")
    try:
        if password != text_of(form, "again"):
            raise InputError(_("the two passwords differ"), hint=_("type the same one twice"))
        made = add_person(studio.ledger, name, roles={WORKSPACE: "owner"}, by=person.id, password=password)
    except InputError as error:
        return _page(request, studio, person, error=error)
    browser = request.headers.get("user-agent", "")
    cookie = studio.sessions.start(made.id, browser=browser, former=request.state.cookie)
    answer = RedirectResponse("/people", 303)
    set_session_cookie(answer, cookie, studio.names)
    return answer


@router.post("/invite", dependencies=[_OWN])
def invite(request: Request, studio: StudioDep, form: FormDep, person: PersonDep) -> Response:
    """Make a link for one more person; it is shown once."""
    try:
        token = create_invitation(
            studio.ledger, text_of(form, "role"), _chosen_projects(studio, form, person), by=person.id
        )  # fmt: skip
    except InputError as error:
        return _page(request, studio, person, error=error)
    link = f"{studio.names.origin(request.headers.get('host', ''))}/invite/{token}"
    return _page(request, studio, person, invited_by=link)


@router.post("/withdraw", dependencies=[_OWN])
def withdraw(studio: StudioDep, form: FormDep, person: PersonDep) -> Response:
    """Let a link open nothing any more."""
    id = text_of(form, "invitation")
    own = set(_own_projects(studio, person))
    if id not in {invitation.id for invitation in list_invitations(studio.ledger) if set(invitation.projects) <= own}:
        raise HTTPException(404)
    withdraw_invitation(studio.ledger, id, by=person.id)
    return RedirectResponse("/people", 303)


@router.post("/role", dependencies=[_OWN])
def change_role(request: Request, studio: StudioDep, form: FormDep, person: PersonDep) -> Response:
    """Give a person another role in a project, or none."""
    projects = _chosen_projects(studio, form, person)
    known = {
        account.id for account in list_accounts(studio.ledger) if _is_shown(account, _own_projects(studio, person))
    }
    if text_of(form, "person") not in known:
        raise HTTPException(404)
    try:
        set_role(studio.ledger, text_of(form, "person"), text_of(form, "role") or None, projects, by=person.id)
    except InputError as error:
        return _page(request, studio, person, error=error)
    return RedirectResponse("/people", 303)


@router.post("/remove", dependencies=[Depends(allow("own", action=""))])
def remove(request: Request, studio: StudioDep, form: FormDep, person: PersonDep) -> Response:
    """Close an account."""
    try:
        remove_account(studio.workspace, text_of(form, "person"), by=person.id)
    except InputError as error:
        return _page(request, studio, person, error=error)
    return RedirectResponse("/people", 303)
