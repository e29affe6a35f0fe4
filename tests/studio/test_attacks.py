"""What a hostile page, file, row or address may try, and gets nothing by."""

from __future__ import annotations

import importlib
import io
import json
import pkgutil
import re
import zipfile
from pathlib import Path

import pytest

from luthier.commands.projects.intake import create_draft, find_draft, safe_filename
from luthier.core.errors import InputError, LuthierError
from luthier.recipe.workspace import Workspace
from luthier.studio import routes
from luthier.studio.pages import report_headers
from luthier.studio.sessions import form_token
from luthier.studio.state import Studio
from studio.conftest import RECIPE, URL, Browser

SCRIPT = "<script>alert(1)</script>"
BREAKS = (
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    SCRIPT,
    "{{ 31337313373*3 }}",
    "</textarea><script>a()",
)
BEFORE = ("/health", "/open", "/static/{name}", "/login", "/invite/{token}", "/oidc/login", "/oidc/return")
"""Pages that are looked at without a session."""


def _addresses(method: str) -> tuple[str, ...]:
    """Every address that takes a method, with ids of nothing but the project."""
    modules = [
        importlib.import_module(f"luthier.studio.routes.{one.name}") for one in pkgutil.iter_modules(routes.__path__)
    ]
    paths = {route.path for module in modules for route in module.router.routes if method in route.methods}
    return tuple(sorted(_fill(path) for path in paths if method == "POST" or path not in BEFORE))


def _fill(path: str) -> str:
    if path.startswith("/projects/"):
        path = path.replace("{name}", "tickets").replace("{step}", "data")
    return re.sub(r"\{(\w+)(:\w+)?\}", lambda found: "1" if found[1] == "item" else "x", path)


POSTS, GETS = _addresses("POST"), _addresses("GET")


def test_nothing_is_shown_without_a_session(stranger: Browser, project: Path) -> None:
    for address in GETS:
        answer = stranger.get(address)
        assert answer.status_code == 401, address
        assert "tickets" not in answer.text, address


def test_no_form_is_taken_from_elsewhere(browser: Browser, project: Path) -> None:
    token = form_token(browser.cookies.get("luthier_studio") or "")
    forged: list[tuple[dict[str, str], dict[str, str]]] = [
        ({"token": token}, {}),
        ({"token": token}, {"origin": "https://evil.example"}),
        ({"token": token}, {"origin": "null"}),
        ({"token": token}, {"origin": "http://127.0.0.1:9999"}),
        ({"token": token}, {"origin": URL, "sec-fetch-site": "cross-site"}),
        ({}, {"origin": URL}),
        ({"token": "0" * 64}, {"origin": URL}),
        ({"token": form_token("")}, {"origin": URL}),
    ]
    for address in POSTS:
        for data, headers in forged:
            assert browser.post(address, data=data, headers=headers).status_code == 403, (address, data, headers)
        for method in ("PUT", "DELETE", "PATCH"):
            assert browser.request(method, address).status_code == 403, (method, address)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8100", "", "0.0.0.0"]
)
def test_no_other_name_reaches_it(browser: Browser, host: str) -> None:
    answer = browser.get("/", headers={"host": host})
    assert answer.status_code == 403
    assert browser.get("/health", headers={"host": host}).status_code == 403


def test_a_link_opens_once_and_a_session_ends(studio: Studio, stranger: Browser) -> None:
    token = studio.sessions.create_link_token()
    stranger.cookies.set("luthier_studio", "planted")
    assert stranger.get("/", headers={"cookie": "luthier_studio=planted"}).status_code == 401
    stranger.cookies.clear()
    opened = stranger.get(f"/open?token={token}")
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "planted" not in cookie
    own = stranger.cookies.get("luthier_studio") or ""
    assert stranger.get("/").status_code == 200
    two = {"cookie": f"luthier_studio=planted; luthier_studio={own}"}
    stranger.cookies.clear()
    assert stranger.get("/", headers=two).status_code == 401, "of two cookies, neither counts"
    assert stranger.get(f"/open?token={token}").status_code == 403, "it was used"
    assert stranger.get("/open?token=").status_code == 403
    stranger.cookies.set("luthier_studio", own)
    stranger.submit("/close")
    stranger.cookies.set("luthier_studio", own)
    assert stranger.get("/").status_code == 401
    with studio.ledger.reading() as session:
        from sqlalchemy import text

        assert own not in str(session.execute(text("SELECT * FROM browser_sessions")).all())


@pytest.mark.usefixtures("failed_commands")
def test_every_answer_has_the_strict_policy_and_no_page_needs_inline_code(browser: Browser, project: Path) -> None:
    for address in (*GETS, "/health", "/static/studio.js", "/nothing"):
        answer = browser.get(address)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'"), address
        for word in ("unsafe", "http:", "https:", "*"):
            assert word not in policy, address
        assert "frame-ancestors 'none'" in policy, address
        assert answer.headers["x-content-type-options"] == "nosniff", address
        if address in GETS and "page" not in address:
            page = answer.text.lower()
            for word in (" style=", "<style", "javascript:", " onclick", " onload", " onerror", "hx-on"):
                assert word not in page, (address, word)
            assert page.count("<script") == page.count('<script src="/static/'), address


@pytest.mark.matrix('"><img*', "{{*")
@pytest.mark.parametrize("words", BREAKS)
def test_what_is_written_is_shown_and_never_run(browser: Browser, project: Path, studio: Studio, words: str) -> None:
    quoted = json.dumps(words)
    text = RECIPE.replace("name: tickets", f"name: {quoted}").replace("path: rows.csv", f"path: {quoted}")
    (project / "recipe.yaml").write_text(text)
    (project.parent / "other").mkdir()
    (project.parent / "other/recipe.yaml").write_text(f"luthier: 1\nsteps: {{{quoted}: {{kind: {quoted}}}}}\n")
    studio.queue.add(Path("tickets/recipe.yaml"), [f"name={words}"])
    run = studio.queue.all()[0]
    studio.queue.update(run.id, state="failed", error={"message": words, "hint": words})
    pages = [
        browser.get(one)
        for one in ("/", "/runs", f"/runs/{run.id}", "/projects/tickets", "/projects/tickets/plan", "/projects/other",
                    "/projects/tickets/recipe", "/projects/other/recipe", f"/projects/{words}", "/runs/{words}")
    ]  # fmt: skip
    pages.append(browser.submit("/projects/tickets/recipe/check", text=text))
    pages.append(browser.submit("/projects/tickets/recipe", text=text))
    pages.append(browser.submit("/projects/tickets/recipe/setting", text=text, path=words, value=words))
    pages.append(browser.submit("/new", name=words, pasted=words))
    for page in pages:
        _is_plain(page.text)


def _is_plain(page: str) -> None:
    assert "<script>a" not in page
    assert "<img src=x" not in page
    assert "<svg onload" not in page
    assert "94011940119" not in page


def test_rows_are_shown_and_never_run(browser: Browser, workspace: Path) -> None:
    rows = "".join(
        f'"{words.replace(chr(34), chr(34) * 2)} {at}","=cmd|{SCRIPT}"\n' for at in range(4) for words in BREAKS
    )
    assert browser.submit("/new", name="mine", pasted=f'"text {SCRIPT}",label\n{rows}').status_code == 200
    page = browser.get("/new/mine/proposal").text
    _is_plain(page)
    assert "&lt;script&gt;" in page
    page = browser.get("/new/mine", params={"prompt": SCRIPT, "answer": BREAKS[0]}).text
    _is_plain(page)


@pytest.mark.parametrize(
    ("filename", "kept"),
    [
        ("../../etc/passwd.csv", "passwd.csv"),
        ("..\\..\\boot.csv", "boot.csv"),
        ("/etc/cron.d/x.jsonl", "x.jsonl"),
        ("a\x00b\n.csv", "a_b_.csv"),
        (".csv.csv", "csv.csv"),
        ("é" * 300 + ".CSV", "e" * 80 + ".csv"),
        ("$(touch x);.csv", "touch_x__.csv"),
    ],
)
def test_a_file_stays_in_its_folder_under_a_plain_name(filename: str, kept: str) -> None:
    found = safe_filename(filename)
    assert "/" not in found
    assert found.endswith((".csv", ".jsonl"))
    if not filename.startswith("."):
        assert found == kept


@pytest.mark.parametrize(
    "filename", ["x.exe", "..csv", "x.csv.tar", "x.html", "csv", "", ".csv/..", "x.yaml", "x.py", "recipe.yaml"]
)
def test_files_of_other_kinds_are_refused(filename: str) -> None:
    with pytest.raises(InputError, match="no kind"):
        safe_filename(filename)


@pytest.mark.parametrize("name", ["..", "../x", "/tmp/x", "a/b", "", ".luthier", "A", "x" * 65, "a b", "-x", "%2e%2e"])
def test_a_project_is_a_plain_name(browser: Browser, workspace: Path, name: str) -> None:
    before = sorted(workspace.rglob("*"))
    assert browser.submit("/new", name=name, pasted="a,b\n1,2\n").status_code == 400
    assert [one for one in sorted(workspace.rglob("*")) if ".luthier" not in one.parts] == [
        one for one in before if ".luthier" not in one.parts
    ]


def test_what_is_there_is_not_written_over(browser: Browser, project: Path) -> None:
    (project.parent / "link").symlink_to("/etc")
    for name in ("tickets", "link"):
        assert browser.submit("/new", name=name, pasted="a,b\n1,2\n").status_code == 400
    assert (project / "recipe.yaml").read_text() == RECIPE


@pytest.mark.parametrize(
    ("filename", "content"),
    [
        ("x.csv", b""),
        ("x.csv", b"PK\x03\x04 not a table"),
        ("x.csv", b"\x7fELF\x02\x01\x01"),
        ("x.xlsx", b"a,b\n1,2\n"),
        ("x.parquet", b"a,b\n1,2\n"),
        ("x.jsonl", b"\x1f\x8b\x08\x00gzip"),
    ],
)
def test_a_file_that_is_not_what_it_says_leaves_nothing(workspace: Path, filename: str, content: bytes) -> None:
    with pytest.raises(LuthierError):
        create_draft(Workspace.open(workspace), "mine", filename, io.BytesIO(content))
    assert not (workspace / "mine").exists()


def test_a_huge_upload_and_a_huge_form_are_refused(browser: Browser, workspace: Path) -> None:
    huge = b"a,b\n" + b"x,y\n" * (3 << 20)
    answer = browser.submit("/new", name="mine", files={"file": ("x.csv", huge)})
    assert answer.status_code == 413
    assert "luthier new NAME --from FILE" in answer.text
    assert not (workspace / "mine").exists()
    assert browser.submit("/new", name="mine", pasted="x" * (5 << 20)).status_code in (400, 413)
    many = {f"field{at}": "x" for at in range(300)}
    assert browser.submit("/new", **many).status_code in (400, 413)


def test_a_spreadsheet_that_unpacks_to_gigabytes_is_said(browser: Browser, workspace: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/worksheets/sheet1.xml", b"<row/>" * (20 << 20))
    assert browser.submit("/new", name="mine", files={"file": ("x.xlsx", packed.getvalue())}).status_code == 200
    assert 'role="alert"' in browser.get("/new/mine/proposal").text


def test_a_mark_that_leads_out_of_the_folder_is_no_draft(browser: Browser, workspace: Path) -> None:
    (workspace / "mine/.luthier").mkdir(parents=True)
    (workspace / "mine/.luthier/upload.json").write_text('{"source": "../../../etc/passwd"}')
    assert browser.get("/new/mine").status_code == 404
    with pytest.raises(InputError):
        find_draft(Workspace.open(workspace), "../mine")


@pytest.mark.parametrize("name", ["..%2f..%2fetc", "%2e%2e%2fx", "tickets%2frecipe.yaml", "~root", "tickets%00"])
def test_an_id_is_never_a_path(browser: Browser, project: Path, name: str) -> None:
    for address in (f"/projects/{name}/recipe", f"/runs/{name}", f"/new/{name}", f"/static/{name}"):
        answer = browser.get(address, follow_redirects=False)
        assert answer.status_code in (307, 404), address
        assert "root:" not in answer.text


def test_no_address_sends_a_browser_elsewhere(browser: Browser, project: Path) -> None:
    for address in ("//evil.example", "/open?next=https://evil.example", "/projects//evil.example/", "/runs/"):
        answer = browser.get(address, follow_redirects=False)
        assert "evil.example" not in answer.headers.get("location", "").partition("//127.0.0.1")[0]


def test_a_report_runs_in_a_sandbox_by_its_own_policy_or_not_at_all() -> None:
    plain = report_headers("<html><script>alert(1)</script>").headers["content-security-policy"]
    assert plain == "default-src 'none'; sandbox allow-scripts; frame-ancestors 'self'"
    evil = '<meta http-equiv="Content-Security-Policy" content="default-src *; x\r\nset-cookie: a">'
    assert "*" not in report_headers(evil).headers["content-security-policy"]
