"""Coming in and going out: logging in, invitations, the language, and what is one's own."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Depends
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from luthier.core.errors import InputError, LuthierError
from luthier.people.accounts import find_account, set_password
from luthier.people.audit import record_audit
from luthier.people.invitations import accept_invitation, find_invitation, join_projects
from luthier.people.logins import LoginRefused, TooManyLogins, log_in, log_in_identity
from luthier.people.oidc import OidcProvider
from luthier.people.rights import Person
from luthier.studio.pages import render
from luthier.studio.people import PersonDep, everybody, member
from luthier.studio.security import own_path, set_session_cookie
from luthier.studio.sessions import digest_cookie
from luthier.studio.state import FormDep, Studio, StudioDep, text_of
from luthier.studio.translation import COOKIE as LANGUAGE_COOKIE
from luthier.studio.translation import LANGUAGES
from luthier.studio.translation import gettext as _
from luthier.traces.api_keys import list_keys, revoke_key

router = APIRouter()
_YEAR_S = 365 * 86400


@router.get("/login", dependencies=[Depends(everybody)])
def show_login(request: Request, studio: StudioDep, next: str = "/") -> Response:
    """The form to log in."""
    if request.state.person is not None or not request.state.accounts:
        return RedirectResponse("/", 303)
    return _login_page(request, studio, own_path(next))


def _login_page(
    request: Request, studio: Studio, then: str, *, status: int = 200, name: str = "", error: LuthierError | None = None
) -> Response:
    return render(
        request, "login.html.jinja", status, then=then, name=name, error=error, provider=_provider_host(studio)
    )


def _provider_host(studio: Studio) -> str:
    return "" if studio.oidc is None else studio.oidc.host


@router.post("/login", dependencies=[Depends(everybody)])
def login(request: Request, studio: StudioDep, form: FormDep) -> Response:
    """Log in by name and password."""
    then, name = own_path(text_of(form, "next")), text_of(form, "name")
    try:
        person = log_in(studio.ledger, name, text_of(form, "password"), _address(request))
    except TooManyLogins as error:
        page = _login_page(request, studio, then, status=429, name=name, error=error)
        page.headers["retry-after"] = str(max(1, round(error.wait_s)))
        return page
    except LoginRefused as error:
        return _login_page(request, studio, then, status=403, name=name, error=error)
    return _enter(request, studio, person, then)


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _enter(request: Request, studio: Studio, person: Person, then: str) -> Response:
    """Begin a session, and go on. The page that does so lets the browser send its cookie, which it would not along a
    chain that another host began."""
    browser = request.headers.get("user-agent", "")
    cookie = studio.sessions.start(person.id, browser=browser, former=request.state.cookie)
    page = render(request, "opened.html.jinja", then=then)
    set_session_cookie(page, cookie, studio.names)
    return page


@router.get("/oidc/login", dependencies=[Depends(everybody)])
def begin_oidc(request: Request, studio: StudioDep, next: str = "/", invitation: str = "") -> Response:
    """Go to the OpenID provider."""
    provider = _provider(studio)
    if not request.state.login:
        raise HTTPException(403, _("Begin at the page to log in."))
    host = request.headers.get("host", "")
    pending = provider.begin(f"{studio.names.origin(host)}/oidc/return")
    then = f"/invite/{quote(invitation, safe='')}" if invitation else own_path(next)
    studio.pending.add(request.state.login, pending, then)
    return RedirectResponse(pending.url, 303)


@router.get("/oidc/return", dependencies=[Depends(everybody)])
def finish_oidc(request: Request, studio: StudioDep, state: str = "") -> Response:
    """Come back from it."""
    provider = _provider(studio)
    taken = studio.pending.take(request.state.login, state)
    if taken is None:
        raise HTTPException(403, _("This login was not begun in this browser, or took too long. Log in again."))
    pending, then = taken
    identity = provider.finish(pending, request.query_params)
    invitation = then.removeprefix("/invite/") if then.startswith("/invite/") else ""
    try:
        person = log_in_identity(studio.ledger, identity, provider.settings, invitation)
    except LoginRefused as error:
        return _login_page(request, studio, "/", status=403, error=error)
    return _enter(request, studio, person, "/" if invitation else then)


def _provider(studio: Studio) -> OidcProvider:
    if studio.oidc is None:
        raise HTTPException(404)
    return studio.oidc


@router.get("/invite/{token}", dependencies=[Depends(everybody)])
def show_invitation(request: Request, studio: StudioDep, token: str) -> Response:
    """What an invitation is for."""
    return _invitation_page(request, studio, token)


def _invitation_page(
    request: Request,
    studio: Studio,
    token: str,
    *,
    status: int = 200,
    error: LuthierError | None = None,
    name: str = "",
) -> Response:
    invitation = find_invitation(studio.ledger, token)
    return render(
        request, "invite.html.jinja", status, invitation=invitation, invited_to=token, error=error, name=name,
        provider=_provider_host(studio), titles=studio.list_labellings(),
    )  # fmt: skip


@router.post("/invite/{token}", dependencies=[Depends(everybody)])
def accept(request: Request, studio: StudioDep, form: FormDep, token: str) -> Response:
    """Make the account; somebody who has one gets the role too."""
    if request.state.person is not None:
        join_projects(studio.ledger, token, request.state.person.id)
        return RedirectResponse("/", 303)
    name, password = text_of(form, "name"), text_of(form, "password")
    try:
        if password != text_of(form, "again"):
            raise InputError(_("the two passwords differ"), hint=_("type the same one twice"))
        person = accept_invitation(studio.ledger, token, name, name=text_of(form, "shown"), password=password)
    except InputError as error:
        return _invitation_page(request, studio, token, status=400, error=error, name=name)
    return _enter(request, studio, person, "/")


@router.post("/language", dependencies=[Depends(everybody)])
def choose(request: Request, form: FormDep) -> Response:
    """Write pages in another language from now on."""
    came = urlsplit(request.headers.get("referer", ""))
    is_own = came.netloc == request.headers.get("host")
    answer = RedirectResponse(own_path(came.path + (f"?{came.query}" if came.query else "")) if is_own else "/", 303)
    language = text_of(form, "language")
    if language in LANGUAGES:
        answer.set_cookie(LANGUAGE_COOKIE, language, max_age=_YEAR_S, httponly=True, samesite="lax", path="/")
    return answer


@router.get("/session", dependencies=[Depends(member)])
def session(request: Request) -> JSONResponse:
    """The token of the browser's session, asked for before a form is sent: it is another one after a new login."""
    return JSONResponse({"token": request.state.token})


@router.get("/account", dependencies=[Depends(member)])
def account(request: Request, studio: StudioDep, person: PersonDep, changed: bool = False) -> Response:
    """One's own roles, sessions, keys and password."""
    return _account_page(request, studio, person, changed=changed)


def _account_page(
    request: Request, studio: Studio, person: Person, *, changed: bool = False, error: LuthierError | None = None
) -> Response:
    own = find_account(studio.ledger, person.id) if request.state.accounts else None
    keys = [key for key in list_keys(studio.ledger) if key.owner == person.id and key.revoked_at is None]
    sessions = studio.sessions.list_of(person.id, request.state.cookie)
    return render(
        request, "account.html.jinja", 200 if error is None else 400, own=own, keys=keys, sessions=sessions,
        changed=changed, error=error, titles=studio.list_labellings(),
    )  # fmt: skip


@router.post("/account/password", dependencies=[Depends(member)])
def change_password(request: Request, studio: StudioDep, form: FormDep, person: PersonDep) -> Response:
    """Take another password; all other sessions end."""
    try:
        if find_account(studio.ledger, person.id).has_password:
            log_in(studio.ledger, person.id, text_of(form, "password"), _address(request))
        kept = digest_cookie(request.state.cookie)
        set_password(studio.ledger, person.id, text_of(form, "new"), by=person.id, keep_session=kept)
    except (LoginRefused, TooManyLogins, InputError) as error:
        return _account_page(request, studio, person, error=error)
    return RedirectResponse("/account?changed=true", 303)


@router.post("/account/sessions", dependencies=[Depends(member)])
def revoke_session(studio: StudioDep, form: FormDep, person: PersonDep) -> Response:
    """End a session of one's own."""
    session = text_of(form, "session")
    if len(session) < 16:
        raise HTTPException(400, _("There is no such session."))
    studio.sessions.revoke(person.id, session)
    record_audit(studio.ledger, person.id, "session.revoke", whom=person.id)
    return RedirectResponse("/account", 303)


@router.post("/account/keys", dependencies=[Depends(member)])
def revoke_own_key(studio: StudioDep, form: FormDep, person: PersonDep) -> Response:
    """Revoke an API key of one's own."""
    name = text_of(form, "key")
    if name not in {key.name for key in list_keys(studio.ledger) if key.owner == person.id}:
        raise HTTPException(404)
    revoke_key(studio.ledger, name)
    record_audit(studio.ledger, person.id, "key.revoke", subject=name)
    return RedirectResponse("/account", 303)
