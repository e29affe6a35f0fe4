"""People and rights in the studio: who gets in, what each role may do, and what an attacker tries in vain."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from luthier.annotation.project import ProjectSettings, create_project
from luthier.core.db.tables.people import InvitationRow, PersonRow
from luthier.core.errors import InputError
from luthier.people import logins
from luthier.people.accounts import add_person, remove_person, set_role
from luthier.people.audit import list_entries, verify_audit
from luthier.people.invitations import create_invitation
from luthier.people.rights import ALLOWED, ROLES, Right, Role
from luthier.studio.app import build_app
from luthier.studio.people import RightCheck, everybody, list_routes, list_undeclared_routes, member
from luthier.studio.security import FORMS, OPEN, StudioNames, own_path
from luthier.studio.sessions import form_token
from luthier.studio.state import Studio
from studio.conftest import URL, Browser

SETTINGS = ProjectSettings.model_validate({"questions": {"topic": {"kind": "choice", "labels": ["good", "bad"]}}})
REVIEWED = SETTINGS.model_copy(update={"purpose": "review"})
PASSWORD = "four plain words here"


@pytest.fixture
def people(studio: Studio) -> Studio:
    """A workspace with an owner and one person of each role in the project `tickets`."""
    add_person(studio.ledger, "olga", roles={"*": "owner"}, by="root", password=PASSWORD)
    for role in ROLES:
        add_person(studio.ledger, role, roles={"tickets": role}, by="olga", password=None)
    return studio


@pytest.fixture
def come(people: Studio) -> Callable[[str], Browser]:
    """A browser in which somebody is logged in."""

    def begin(person: str) -> Browser:
        browser = Browser(build_app(people), base_url=URL)
        browser.cookies.set("luthier_studio", people.sessions.start(person, browser="Test"))
        return browser

    return begin


def fresh(studio: Studio) -> Browser:
    return Browser(build_app(studio), base_url=URL)


def log_in(browser: Browser, name: str = "olga", password: str = PASSWORD, **more: str) -> Any:
    browser.get("/login")
    return browser.post("/login", data=fill(browser, name=name, password=password, **more), headers={"origin": URL})


def fill(browser: Browser, **fields: str) -> dict[str, str]:
    """A form as its page has it before there is a session."""
    return {"token": form_token(browser.cookies.get("luthier_login") or ""), **fields}


def test_every_route_declares_a_right(people: Studio) -> None:
    app = build_app(people)
    assert list_undeclared_routes(app) == []
    routes = list_routes(app)
    assert len(routes) > 50
    for path, declared in routes:
        address = path.split()[1]
        is_before = address in OPEN or address.startswith(FORMS) or address in ("/health", "/static/{name}")
        assert (everybody in declared) == is_before, path
        assert declared, path


def test_an_app_with_a_route_that_declares_none_does_not_start(people: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.studio.routes import home

    monkeypatch.setattr(home.router, "routes", list(home.router.routes))
    home.router.add_api_route("/secret", lambda: "")
    with pytest.raises(RuntimeError, match="/secret"):
        build_app(people)


ADDRESSES = {"step": "data", "row": "x", "token": "x", "digest": "0" * 64, "id": "x", "item": "1",
             "finding": "x", "recipe": "x.yaml", "explanation": "0" * 12}  # fmt: skip


def _needs(people: Studio) -> list[tuple[str, str, set[Right]]]:
    """Each route that needs a session, with the rights that it needs."""
    found: list[tuple[str, str, set[Right]]] = []
    for path, declared in list_routes(build_app(people)):
        if everybody not in declared:
            method, address = path.split()
            rights = {check.right for check in declared if isinstance(check, RightCheck)}
            assert rights or member in declared
            found.append((method, address, rights))
    return found


@pytest.mark.matrix("viewer", "reviewer")
@pytest.mark.usefixtures("failed_commands")
@pytest.mark.parametrize("role", ROLES)
def test_each_role_at_each_route(
    people: Studio, project: Path, come: Callable[[str], Browser], role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise InputError("not now: it needs another process")

    monkeypatch.setattr("luthier.studio.routes.label_manage.measure_in_other_process", refuse)
    ids = {}
    for name in ("tickets", "mail"):
        run = people.queue.add(Path(f"{name}/recipe.yaml"))
        labelling = create_project(people.ledger, name, SETTINGS, project=name, by="olga")
        ids[name] = {**ADDRESSES, "name": name, "run": run.id, "project_id": labelling.id, "study": labelling.id}
    nothing = {**ADDRESSES, "name": "nobody", "run": "x", "project_id": "x", "study": "x"}
    browser = come(role)
    for method, address, rights in _needs(people):
        if "{" not in address or not rights:
            continue
        if "/events" not in address:
            is_refused = _is_refused(browser, method, address.format(**ids["tickets"]))
            assert is_refused == (not rights <= ALLOWED[role]), (method, address)
        for elsewhere in (ids["mail"], nothing):
            is_refused = _is_refused(browser, method, address.format(**elsewhere))
            assert is_refused, f"{role} reached another project by {method} {address}"


def _is_refused(browser: Browser, method: str, address: str) -> bool:
    """Whether a right is missing. A form is sent without its token, which is looked at afterwards: nothing is done."""
    answer = browser.request(method, address, headers={"origin": URL}, follow_redirects=False)
    is_refused = "You have no right" in answer.text
    assert not is_refused or answer.status_code == 403
    assert method == "GET" or answer.status_code == 403
    return is_refused


def test_pages_of_the_workspace_need_a_role_in_it(people: Studio, come: Callable[[str], Browser]) -> None:
    for role in ROLES:
        browser = come(role)
        for address in ("/new", "/audit"):
            assert browser.get(address).status_code == 403, (role, address)
        assert browser.get("/people").status_code == (200 if role == "owner" else 403)
        assert browser.get("/runs").status_code == (403 if role == "labeller" else 200)
        assert browser.get("/account").status_code == 200
    everything = come("olga")
    for address in ("/new", "/audit", "/people", "/runs", "/"):
        assert everything.get(address).status_code == 200


def test_lists_show_what_is_ones_own(people: Studio, project: Path, come: Callable[[str], Browser]) -> None:
    (project.parent / "mail").mkdir()
    (project.parent / "mail/recipe.yaml").write_text("luthier: 1\nname: mail-secret\nsteps: {}\n")
    people.queue.add(Path("tickets/recipe.yaml"))
    people.queue.add(Path("mail/recipe.yaml"))
    for address in ("/", "/runs"):
        assert "mail" not in come("viewer").get(address).text
        assert "mail" in come("olga").get(address).text
    home = come("labeller").get("/", follow_redirects=False)
    assert home.headers["location"] == "/label"
    page = come("labeller").get("/account").text
    assert 'href="/runs"' not in page


def test_a_labeller_sees_the_items_that_they_are_to_label_alone(
    people: Studio, project: Path, come: Callable[[str], Browser]
) -> None:
    tickets, mail, loose = (
        create_project(people.ledger, f"items of {name or 'nothing'}", SETTINGS, project=name, by="olga")
        for name in ("tickets", "mail", "")
    )
    browser = come("labeller")
    page = browser.get("/label").text
    assert "items of tickets" in page
    assert "items of mail" not in page
    assert "items of nothing" not in page
    assert browser.get(f"/label/{tickets.id}").status_code == 200
    review = create_project(people.ledger, "what it answered", REVIEWED, project="tickets", by="olga")
    assert review.name not in page
    assert review.name not in browser.get("/label").text
    assert come("reviewer").get(f"/label/{review.id}").status_code == 200
    for other in (mail.id, loose.id, "x", review.id):
        assert browser.get(f"/label/{other}").status_code == 403
        assert browser.submit(f"/label/{other}/next").status_code == 403
    set_role(people.ledger, "labeller", "labeller", [f"label/{mail.id}"], by="olga")
    assert browser.get(f"/label/{mail.id}").status_code == 200
    set_role(people.ledger, "labeller", "editor", [f"label/{mail.id}"], by="olga")
    assert browser.submit(f"/label/{mail.id}/train", name="new").status_code == 403, "the recipe is not theirs"
    assert "items of mail" in browser.get("/account").text
    assert "items of mail" in come("olga").get("/people").text


def test_logging_in_and_out(people: Studio, project: Path) -> None:
    browser = fresh(people)
    page = browser.get("/projects/tickets?x=1", headers={"accept": "text/html"}, follow_redirects=False)
    assert page.headers["location"] == "/login?next=%2Fprojects%2Ftickets%3Fx%3D1"
    assert browser.get("/projects/tickets").status_code == 401
    browser.get("/login", params={"next": "/projects/tickets?x=1"})
    opened = log_in(browser, next="/projects/tickets?x=1")
    assert "url=/projects/tickets?x=1" in opened.text
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie
    assert "olga" in browser.get("/").text
    own = browser.cookies.get("luthier_studio") or ""
    browser.submit("/close")
    browser.cookies.set("luthier_studio", own)
    assert browser.get("/").status_code == 401
    assert next(one.action for one in list_entries(people.ledger)) == "login"


def test_the_link_opens_nothing_once_there_are_accounts(studio: Studio, browser: Browser) -> None:
    token = studio.sessions.create_link_token()
    assert browser.get("/people").status_code == 200
    made = browser.submit("/people/first", name="olga", password=PASSWORD, again="another one of these")
    assert made.status_code == 400
    assert browser.submit("/people/first", name="olga", password=PASSWORD, again=PASSWORD).status_code == 200
    assert "olga" in browser.get("/account").text
    assert browser.submit("/people/first", name="eva", password=PASSWORD, again=PASSWORD).status_code == 403
    other = fresh(studio)
    assert other.get(f"/open?token={token}", follow_redirects=False).headers["location"] == "/login"
    assert other.get("/").status_code == 401


def test_a_session_that_was_planted_is_not_taken_over(people: Studio) -> None:
    browser = fresh(people)
    browser.cookies.set("luthier_studio", "planted")
    log_in(browser)
    own = [cookie.value for cookie in browser.cookies.jar if cookie.name == "luthier_studio"]
    assert "planted" not in own[-1:]
    stranger = fresh(people)
    stranger.cookies.set("luthier_studio", "planted")
    assert stranger.get("/").status_code == 401


def test_a_login_ends_the_session_that_the_browser_had(people: Studio) -> None:
    browser = fresh(people)
    log_in(browser)
    first = browser.cookies.get("luthier_studio") or ""
    browser.get("/login")
    second = people.sessions.start("olga", former=first)
    assert second != first
    assert people.sessions.find(first).person is None


def test_a_login_is_not_sent_from_elsewhere(people: Studio) -> None:
    browser = fresh(people)
    browser.get("/login")
    own = {"name": "olga", "password": PASSWORD}
    forged: list[tuple[dict[str, str], dict[str, str]]] = [
        (fill(browser, **own), {}),
        (fill(browser, **own), {"origin": "https://evil.example"}),
        (fill(browser, **own), {"origin": URL, "sec-fetch-site": "cross-site"}),
        (own, {"origin": URL}),
        ({**own, "token": form_token("")}, {"origin": URL}),
        ({**own, "token": form_token("another browser's")}, {"origin": URL}),
    ]
    for data, headers in forged:
        assert browser.post("/login", data=data, headers=headers).status_code == 403
    bare = fresh(people)
    answer = bare.post("/login", data={**own, "token": form_token("")}, headers={"origin": URL})
    assert answer.status_code == 403, "without the cookie that the page gives, no token is right"


def test_guessing_is_slowed_down_and_says_nothing(people: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    monkeypatch.setattr(logins, "_read_clock", lambda: now)

    def text(name: str) -> str:
        return re.sub(r'name="name" value="[^"]*"', "", log_in(fresh(people), name, "a wrong password").text)

    def plain(page: str) -> str:
        return re.sub(r'value="[0-9a-f]{64}"', "", page)

    assert plain(text("olga")) == plain(text("nobody"))
    for _ in range(4):
        log_in(fresh(people), "olga", "a wrong password")
    answer = log_in(fresh(people), "olga", PASSWORD)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    with monkeypatch.context() as refusing:
        refusing.setattr(logins, "verify_password", lambda *given: pytest.fail("a refusal computes no digest"))
        assert log_in(fresh(people), "olga", PASSWORD).status_code == 429
    now += timedelta(seconds=2)
    assert log_in(fresh(people), "olga", PASSWORD).status_code == 200


NEXT = ("//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)", "evil",
        "/\tevil", "/%0d%0aset-cookie:x", "", "http:///evil", "/ok?next=https://evil.example", "/\n//evil")  # fmt: skip


@pytest.mark.matrix("*evil.example", "javascript*", "/%0d*")
@pytest.mark.parametrize("address", NEXT)
def test_a_login_leads_to_own_pages_alone(people: Studio, address: str) -> None:
    found = own_path(address)
    assert found.startswith("/")
    assert not found.startswith("//")
    assert "\\" not in found
    page = log_in(fresh(people), next=address).text
    assert "evil" not in page or "url=/%0d%0aset" in page or "url=/ok?next=" in page or "url=/\tevil" not in page
    assert f'content="0;url={found}"'.replace("&", "&amp;") in page


def test_an_invitation_makes_an_account_once(people: Studio) -> None:
    token = create_invitation(people.ledger, "viewer", ["tickets"], by="olga")
    browser = fresh(people)
    assert "tickets" in browser.get(f"/invite/{token}").text
    address = f"/invite/{token}"
    differs = fill(browser, name="lea", password=PASSWORD, again="another")
    assert browser.post(address, data=differs, headers={"origin": URL}).status_code == 400
    form = fill(browser, name="lea", password=PASSWORD, again=PASSWORD)
    assert browser.post(address, data=form, headers={"origin": URL}).status_code == 200
    assert "lea" in browser.get("/account").text
    again = fresh(people)
    assert again.get(address).status_code == 400
    form = fill(again, name="mia", password=PASSWORD, again=PASSWORD)
    assert again.post(address, data=form, headers={"origin": URL}).status_code == 400
    over = create_invitation(people.ledger, "viewer", ["tickets"], by="olga")
    with people.ledger.writing() as session:
        session.execute(update(InvitationRow).values(expires_at=datetime.now(UTC)))
    assert fresh(people).get(f"/invite/{over}").status_code == 400
    assert token not in str([vars(one) for one in list_entries(people.ledger)])


def test_an_owner_of_a_project_invites_into_it_alone(
    people: Studio, project: Path, come: Callable[[str], Browser]
) -> None:
    browser = come("owner")
    assert "/invite/" in browser.submit("/people/invite", role="labeller", project="tickets").text
    for elsewhere in ("*", "mail", ""):
        assert browser.submit("/people/invite", role="owner", project=elsewhere).status_code == 403
        assert browser.submit("/people/role", person="owner", role="owner", project=elsewhere).status_code == 403
    assert browser.submit("/people/role", person="viewer", role="editor", project="tickets").status_code == 200
    assert browser.submit("/people/role", person="olga", role="viewer", project="tickets").status_code == 404
    assert browser.submit("/people/remove", person="viewer").status_code == 403
    whole = come("olga")
    whole.submit("/people/invite", role="viewer", project="*")
    id = re.search(
        r'name="invitation" value="([0-9a-f]+)"', whole.get("/people").text.rpartition("/people/withdraw")[2]
    )
    assert id
    assert browser.submit("/people/withdraw", invitation=id[1]).status_code == 404
    assert whole.submit("/people/withdraw", invitation=id[1]).status_code == 200


def test_a_session_is_revoked_and_a_removed_person_is_out(people: Studio, come: Callable[[str], Browser]) -> None:
    here, there = come("viewer"), come("viewer")
    sessions = re.findall(r'name="session" value="([0-9a-f]+)"', here.get("/account").text)
    assert len(sessions) == 2
    stranger = come("editor")
    for session in sessions:
        stranger.submit("/account/sessions", session=session)
    assert here.get("/account").status_code == there.get("/account").status_code == 200, "others' sessions stay"
    assert here.submit("/account/sessions", session="%").status_code == 400
    assert here.submit("/account/sessions", session="_" * 16).status_code == 200
    for session in sessions:
        here.submit("/account/sessions", session=session)
    assert there.get("/account").status_code == 401
    browser = come("viewer")
    assert browser.get("/account").status_code == 200
    remove_person(people.ledger, "viewer", by="olga")
    assert browser.get("/account").status_code == 401
    with people.ledger.writing() as session:
        session.execute(update(PersonRow).where(PersonRow.id == "editor").values(removed_at=datetime.now(UTC)))
    assert stranger.get("/account").status_code == 401


def test_a_stream_ends_with_its_session(people: Studio, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.studio.security._RECHECK_S", 0.1)
    run = people.queue.add(Path("tickets/recipe.yaml"))
    cookie = people.sessions.start("viewer")
    headers = [(b"host", b"127.0.0.1:8100"), (b"cookie", f"luthier_studio={cookie}".encode())]
    scope = {
        "type": "http", "method": "GET", "path": f"/runs/{run.id}/events", "raw_path": b"", "query_string": b"",
        "headers": headers, "scheme": "http", "server": ("127.0.0.1", 8100), "client": ("127.0.0.1", 1),
        "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    sent: list[Any] = []
    begun = asyncio.Event()

    async def watch() -> None:
        asked = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> Any:
            message = next(asked, None)
            return message if message is not None else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)
            begun.set()

        task = asyncio.create_task(build_app(people)(scope, receive, send))
        await begun.wait()
        assert not task.done()
        await asyncio.to_thread(people.sessions.close, cookie)
        await asyncio.wait_for(task, 20)

    asyncio.run(watch())
    assert sent[0]["status"] == 200


def test_a_new_password_ends_other_sessions(people: Studio, come: Callable[[str], Browser]) -> None:
    here, there = come("olga"), come("olga")
    wrong = here.submit("/account/password", password="a wrong password", new="another good password")
    assert wrong.status_code == 400
    assert here.submit("/account/password", password=PASSWORD, new="another good password").status_code == 200
    assert here.get("/account").status_code == 200
    assert there.get("/account").status_code == 401


def test_a_role_counts_from_the_next_request_on(people: Studio, project: Path, come: Callable[[str], Browser]) -> None:
    browser = come("viewer")
    assert browser.get("/projects/tickets").status_code == 200
    set_role(people.ledger, "viewer", None, ["tickets"], by="olga")
    assert browser.get("/projects/tickets").status_code == 403


def test_what_is_changed_stands_in_the_audit_log(people: Studio, project: Path, come: Callable[[str], Browser]) -> None:
    browser = come("editor")
    text = (project / "recipe.yaml").read_text()
    assert browser.submit("/projects/tickets/recipe", text=text.replace("0.2", "two")).status_code == 400
    browser.submit("/projects/tickets/recipe/check", text=text)
    browser.submit("/projects/tickets/recipe", text=text)
    run = browser.submit("/projects/tickets/run").url.path
    browser.submit(f"{run}/stop")
    entries = [one for one in list_entries(people.ledger) if one.actor == "editor"][::-1]
    assert [one.action for one in entries] == ["recipe.save", "run.start", "run.stop"]
    assert {one.project for one in entries} == {"tickets"}
    assert entries[1].details == {"to": run}
    page = come("olga").get("/audit", params={"verify": "true"}).text
    assert "The log is whole" in page
    assert "recipe.save" in page
    verify_audit(people.ledger)


def test_tampering_is_said_on_the_page(people: Studio, come: Callable[[str], Browser]) -> None:
    from sqlalchemy import text

    browser = come("olga")
    with people.ledger.writing() as session:
        session.execute(text("UPDATE audit_entries SET action = 'x' WHERE number = 2"))
    assert "entry 2 of the audit log was changed" in browser.get("/audit", params={"verify": "true"}).text


@pytest.mark.parametrize("words", ["<script>a()</script>", '"><img src=x onerror=a()>', "{{ 31337313373*3 }}"])
def test_names_are_shown_and_never_run(people: Studio, come: Callable[[str], Browser], words: str) -> None:
    add_person(people.ledger, "mallory", roles={"*": "owner"}, by="olga", name=words, password=None)
    browser = come("mallory")
    pages = [browser.get(one).text for one in ("/", "/account", "/people", "/audit", f"/audit?person={words}")]
    pages.append(log_in(fresh(people), words, words, next=words).text)
    pages.append(browser.submit("/people/role", person="olga", role=words, project="*").text)
    for page in pages:
        for bad in ("<script>a", "<img src=x", "94011940119"):
            assert bad not in page


def test_the_language_is_chosen(people: Studio) -> None:
    browser = fresh(people)
    browser.get("/login")
    form = fill(browser, language="de")
    answer = browser.post(
        "/language", data=form, headers={"origin": URL, "referer": f"{URL}/login?next=/runs"}, follow_redirects=False
    )
    assert answer.headers["location"] == "/login?next=/runs"
    assert "luthier_language=de" in answer.headers["set-cookie"]
    assert 'lang="de"' in browser.get("/login").text
    for referer in ("https://evil.example/x", "//evil.example", f"{URL}//evil.example"):
        headers = {"origin": URL, "referer": referer}
        answer = browser.post("/language", data={**form, "language": "xx"}, headers=headers, follow_redirects=False)
        assert answer.headers["location"] == "/"
        assert "set-cookie" not in answer.headers
    assert browser.post("/language", data={"language": "fr"}, headers={"origin": URL}).status_code == 403


def test_names_that_reach_it() -> None:
    here, beyond, public = StudioNames(), StudioNames(beyond=True), StudioNames("https://studio.example")
    assert here.know("127.0.0.1:8100")
    assert not here.know("192.168.0.7:8100")
    assert beyond.know("192.168.0.7:8100")
    assert beyond.know("[fe80::1]:8100")
    assert not beyond.know("evil.example")
    assert public.know("studio.example")
    assert not public.know("studio.example.evil.example")
    assert not public.know("192.168.0.7")
    assert public.origin("studio.example") == "https://studio.example"
    assert public.origin("127.0.0.1:8100") == "http://127.0.0.1:8100"


def test_behind_https_cookies_are_secure_and_the_origin_is_the_public_one(people: Studio) -> None:
    people.names = StudioNames("https://studio.example")
    browser = Browser(build_app(people), base_url="https://studio.example")
    browser.get("/login")
    form = fill(browser, name="olga", password=PASSWORD)
    for origin in ("http://studio.example", "https://studio.example:8443", URL, "https://evil.example"):
        assert browser.post("/login", data=form, headers={"origin": origin}).status_code == 403
    opened = browser.post("/login", data=form, headers={"origin": "https://studio.example"})
    assert opened.status_code == 200
    assert "Secure" in opened.headers["set-cookie"]
    assert browser.get("/").status_code == 200
    assert browser.get("/", headers={"host": "192.168.0.7"}).status_code == 403
